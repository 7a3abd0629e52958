"""The status page in a terminal: `bootfarm nodes` and its like, clients of the web API."""
