"""Kubernetes 1.20, compiled from Debian 12's source package."""
