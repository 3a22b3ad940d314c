"""The dtypes of columns, features and keys, by name."""

from __future__ import annotations

from typing import Literal

__all__ = ["Dtype"]

Dtype = Literal[
    "int64",
    "float64",
    "string",
    "bool",
    "timestamp",
    "bytes",
    "list[int64]",
    "list[float64]",
    "list[string]",
    "list[bool]",
    "list[timestamp]",
    "list[bytes]",
]
