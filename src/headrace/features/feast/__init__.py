"""Compiles Feast's objects, as users write them, to plans; and implements plugins for Feast's own Python API.

This is the only room that imports Feast. Only build stages and notebooks import it, before the project's
modules if they can (see `internals`).
"""

from headrace.features.feast import internals  # noqa: F401  # first: it imports Feast

# isort: split
from headrace.features.feast.compiler import compile  # noqa: A004
from headrace.features.feast.registry import ApplyResult, apply, fingerprints, stored_digests
from headrace.features.feast.source import TableSource

__all__ = ["ApplyResult", "TableSource", "apply", "compile", "fingerprints", "stored_digests"]
