"""What stands in the container image beside the server: its door and its health check."""
