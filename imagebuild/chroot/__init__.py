"""Work inside the root of a node image: packages, patches, settings, kernel, what it holds."""
