"""The rack page in a terminal: `bootfarm nodes`, `node` and `events`, clients of the web API."""
