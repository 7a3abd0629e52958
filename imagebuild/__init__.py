"""Recipe to node image."""
