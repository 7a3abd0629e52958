"""The running server, put together: parts, services, and what is opened at the start."""
