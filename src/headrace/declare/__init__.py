"""Declarations, which users import: events, tables, sources, models. No engine."""
