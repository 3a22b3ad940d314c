"""Numbers in words: with what they count, and several at once."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["describe_ranges", "plural"]


def plural(number: int, noun: str, verb: str = "", verb_of_many: str = "") -> str:
    """`1 event`, `2 events`, `1,000 events`; with a verb `1 event is`, `2 events are`.

    Args:
        number: how many.
        noun: what is counted, in the singular; its plural has an `s`.
        verb, verb_of_many: what follows, for one and for any other number.
    """
    words = (noun, verb) if number == 1 else (f"{noun}s", verb_of_many)
    return f"{number:,} {' '.join(words).rstrip()}"


def describe_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in rising order: `1 to 4, 7, 9, 10`; three or more that follow each other are a range."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in ranges)
