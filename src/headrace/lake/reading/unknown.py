"""The error of what the reader of the embedded lake does not know."""

from __future__ import annotations

__all__ = ["UnknownFormat"]


class UnknownFormat(Exception):
    """A table, or one of its files, has something that is read through PyIceberg."""
