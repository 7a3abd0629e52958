"""A storm of booting nodes, played against a running server: `bootfarm simulate`."""
