"""Checks: compare served features with recomputed ones, and the online state with the plans."""
