"""Reads Python source: what a declaration reaches, its fingerprint, and the text of a function by value."""
