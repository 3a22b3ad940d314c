"""Ingest: from the log into the topic's table, and to what follows it."""
