"""Events: contract to verdicts, ingest, quarantine, collector."""
