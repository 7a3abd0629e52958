"""Kubernetes compiled for the rack: .deb files, a repository, images."""
