"""The embedded log: one SQLite file a topic."""
