"""From a recipe to a node image."""
