"""Alerts: what is wrong, as records on a topic, and the channels that take them to people."""
