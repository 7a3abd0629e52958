"""Kubernetes from Debian's own source package: .deb files, a repository, images."""
