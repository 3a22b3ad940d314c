"""Feast's objects as users write them, compiled to plans; and our plugins for Feast's own Python API.

The only room that imports Feast: only build stages and notebooks import it, before the project's
modules where they can (see `internals`).
"""

from headrace.features.feast import internals  # noqa: F401  # first: it imports Feast

# isort: split
from headrace.features.feast.compiler import compile  # noqa: A004 (it is what this does)
from headrace.features.feast.registry import ApplyResult, apply, fingerprints
from headrace.features.feast.source import TableSource

__all__ = ["ApplyResult", "TableSource", "apply", "compile", "fingerprints"]
