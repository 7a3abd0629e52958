"""farm.yaml: what the operator says of this server and its machines."""
