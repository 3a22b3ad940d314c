"""Alerts: too many refused events, seen, told on a topic, and taken to people."""
