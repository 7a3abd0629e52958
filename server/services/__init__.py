"""Thin shells around the protocol cores: sockets, files, timers."""
