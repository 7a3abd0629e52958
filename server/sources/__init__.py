"""What is watched on disk: farm.yaml, lts.conf, its secrets, the store."""
