"""The verbs of events: send, ingest, capture, quarantine, contracts."""
