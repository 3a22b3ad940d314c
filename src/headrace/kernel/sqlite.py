"""What SQLite's errors mean, as far as only their texts tell."""

from __future__ import annotations

__all__ = ["is_locked"]


def is_locked(error: object) -> bool:
    """Whether another process has the file: its error, or the text of it.

    One that was stopped with the locks of the WAL index in its hand makes "locking protocol" of "locked".
    """
    text = str(error)
    return "lock" in text or "busy" in text
