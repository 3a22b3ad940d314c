"""Checks: served features against the same features computed again, and the state against the plans."""
