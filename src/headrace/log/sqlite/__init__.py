"""The embedded log: one SQLite file per topic."""
