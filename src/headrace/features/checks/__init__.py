"""Checks: compare the features that a prediction used with recomputed ones."""
