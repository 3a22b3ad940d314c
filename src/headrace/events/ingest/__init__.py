"""Ingest: judges the events of a log, and commits them to the topic's table and its sinks."""
