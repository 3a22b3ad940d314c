"""Events: contracts, formats, the collector, verdicts, ingest into tables, and the quarantine."""
