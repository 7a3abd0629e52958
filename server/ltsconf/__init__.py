"""lts.conf: grammar, resolver, renderer; pure."""
