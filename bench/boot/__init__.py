"""`make bench-boot`: a machine's way from power-on to login, ours beside LTSP's."""
