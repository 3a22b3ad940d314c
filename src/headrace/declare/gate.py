"""Gate rules: what a version must pass before it becomes champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Rule", "at_least", "at_most", "not_worse_than_champion"]


@dataclass(frozen=True)
class Rule:
    """One rule on one metric of the held-out test part.

    Attributes:
        kind: `at_least` and `at_most` compare with `bound`; `not_worse_than_champion` with the
            champion's metric on the same test rows, less `bound`.
        metric: a name of training.evaluation.
        bound: the number to compare with, or the tolerance.
    """

    kind: Literal["at_least", "at_most", "not_worse_than_champion"]
    metric: str
    bound: float


def at_least(metric: str, bound: float) -> Rule:
    """The metric is at least `bound`."""
    return Rule("at_least", metric, bound)


def at_most(metric: str, bound: float) -> Rule:
    """The metric is at most `bound`."""
    return Rule("at_most", metric, bound)


def not_worse_than_champion(metric: str, tolerance: float = 0.0) -> Rule:
    """The metric is no worse than the champion's on the same test rows, but for `tolerance`."""
    return Rule("not_worse_than_champion", metric, tolerance)
