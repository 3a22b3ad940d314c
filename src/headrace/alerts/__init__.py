"""Alerts: problems as records on a topic, and the channels that deliver them to people."""
