"""Flows: the work behind the commands, each of which uses several rooms."""
