"""Serves node images and lts.conf to machines that PXE-boot."""
