"""Timelines of nodes, made from events."""
