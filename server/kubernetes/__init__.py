"""What the server says to the cluster that it runs in."""
