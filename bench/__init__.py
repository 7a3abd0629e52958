"""Side by side with the servers that people use today: `make bench`. See docs/performance.md."""
