"""What an ingest keeps with its topic's table, by name. Who only reads it need not load the ingest."""

__all__ = ["ARRIVED", "CLOCK", "CONTRACT", "EXTRA", "POSITION", "WATERMARKS"]

POSITION = "ingest"
"""The name under which the topic's table keeps how far it has read the log."""

CLOCK = "headrace.clock"
"""The property of the topic's table with the latest arrival so far, microseconds since 1970."""

EXTRA = "headrace.extra"
"""The property of the topic's table that counts events by a field that the contract does not name (JSON);
also a fact of each commit that brought such events, of its own ones."""

ARRIVED = "headrace.arrived"
"""A fact of each commit: how many events it brought by their time of arrival, and how many of them were
refused, by reason (events.rates; JSON)."""

CONTRACT = "headrace.contract"
"""The property of the topic's table with the contract that it last had (JSON, events.description)."""

WATERMARKS = "headrace.watermarks"
"""The property of the topic's table with how far its good rows have come in time, by log partition
(events.verdicts.watermarks; JSON)."""
