"""What `/metrics` says, counted as it happens (docs/monitoring.md)."""
