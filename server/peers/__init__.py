"""The farm's other servers: what they have is followed, what differs is told."""
