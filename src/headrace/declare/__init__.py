"""What users import and write: events, tables, sources, models. No engine."""
