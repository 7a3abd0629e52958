"""A rollout carried out: what is seen is gathered, `server.rollout` decides, this room does it."""
