"""What the server tells over HTTP besides the boot tree: API, beacons, status page."""
