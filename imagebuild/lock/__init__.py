"""The same recipe, the same bytes: a lock of package versions, and an archive made of it."""
