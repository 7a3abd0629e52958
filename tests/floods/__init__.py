"""`make test-floods`: what honest machines feel while another one floods a service.

Minutes, as root, in network namespaces of its own; not a part of `make test`.
"""
