"""Where the rows of a table are computed and written, behind one port: in this process, or by tasks of Ray."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.tables.compute import local, ray
from headrace.tables.compute.port import Compute

__all__ = ["COMPUTES"]

COMPUTES: Mapping[str, Compute] = {"local": local.write_pieces, "ray": ray.write_pieces}
"""The setting `compute` → what writes the pieces of a table."""
