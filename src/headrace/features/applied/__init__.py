"""Feast's registry as the last build applied it: where it is, and whether it is unchanged.

Does not import Feast.
"""
