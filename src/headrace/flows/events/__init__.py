"""The commands on events: send, ingest, capture, quarantine, check contracts, drop-table."""
