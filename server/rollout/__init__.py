"""A rollout as data, and what it does next: pure; no socket, no clock, no file."""
