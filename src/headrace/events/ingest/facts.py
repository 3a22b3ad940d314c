"""What an ingest keeps with its topic's table, by name. Who only reads it need not load the ingest."""

__all__ = ["POSITION"]

POSITION = "ingest"
"""The name under which the topic's table keeps how far it has read the log."""
