"""Numbers with what they count, in words."""

from __future__ import annotations

__all__ = ["plural"]


def plural(number: int, noun: str) -> str:
    """`1 event`, `2 events`, `1,000 events`.

    Args:
        number: how many.
        noun: what is counted, in the singular; its plural has an `s`.
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
