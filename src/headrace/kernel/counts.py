"""Numbers with what they count, in words."""

from __future__ import annotations

__all__ = ["plural"]


def plural(number: int, noun: str, verb: str = "", verb_of_many: str = "") -> str:
    """`1 event`, `2 events`, `1,000 events`; with a verb `1 event is`, `2 events are`.

    Args:
        number: how many.
        noun: what is counted, in the singular; its plural has an `s`.
        verb, verb_of_many: what follows, for one and for any other number.
    """
    words = (noun, verb) if number == 1 else (f"{noun}s", verb_of_many)
    return f"{number:,} {' '.join(words).rstrip()}"
