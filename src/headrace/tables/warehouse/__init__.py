"""Publishes tables as a star schema in PostgreSQL."""
