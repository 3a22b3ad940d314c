"""Gate rules, which a version must pass before it becomes champion."""

from __future__ import annotations

import math
from typing import Literal

import attrs

from headrace.declare.metrics import find_metric
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Rule", "Unknown", "at_least", "at_most", "better_than_baseline", "not_worse_than_champion"]

Unknown = Literal["fail", "pass"]


@attrs.frozen
class Rule:
    """One rule on one metric of the held-out test part.

    Attributes:
        kind: `at_least` and `at_most` compare with `bound`; `not_worse_than_champion` with the champion's
            metric on the same test rows, less `bound`; `better_than_baseline` with the baseline's metric there,
            better by the share `bound` of it.
        metric: a name in declare.metrics.METRICS.
        bound: the number to compare with, or the tolerance.
        unknown: the outcome if the champion reads features that the test rows do not have.
    """

    kind: Literal["at_least", "at_most", "not_worse_than_champion", "better_than_baseline"]
    metric: str
    bound: float
    unknown: Unknown = "fail"


def at_least(metric: str, bound: float) -> Rule:
    """The metric is at least `bound`.

    Raises:
        ProjectError: the metric does not exist, less of it is better, or it never reaches `bound`.
    """
    _check(metric, bound, more_is_better=True, other=f"at_most({metric!r}, ...)", place=Place.of_caller())
    return Rule("at_least", metric, bound)


def at_most(metric: str, bound: float) -> Rule:
    """The metric is at most `bound`.

    Raises:
        ProjectError: the metric does not exist, more of it is better, or it is never as low as `bound`.
    """
    _check(metric, bound, more_is_better=False, other=f"at_least({metric!r}, ...)", place=Place.of_caller())
    return Rule("at_most", metric, bound)


def not_worse_than_champion(metric: str, tolerance: float = 0.0, *, unknown: Unknown = "fail") -> Rule:
    """The metric is at most `tolerance` worse than the champion's on the same test rows.

    Args:
        metric: the name of a metric.
        tolerance: how much worse it may be, 0 or more.
        unknown: the outcome if the champion cannot be evaluated on the test rows, because it reads features
            that they do not have: `fail` or `pass`. Without a champion the rule passes.

    Raises:
        ProjectError: the metric does not exist, or `tolerance` or `unknown` is not valid.
    """
    place = Place.of_caller()
    find_metric(metric, place)
    if not (_is_number(tolerance) and 0 <= tolerance < math.inf):
        raise ProjectError(f"tolerance={tolerance!r} must be 0 or more", where=str(place))
    if unknown not in ("fail", "pass"):
        raise ProjectError(f"unknown={unknown!r} must be 'fail' or 'pass'", where=str(place))
    return Rule("not_worse_than_champion", metric, tolerance, unknown)


def better_than_baseline(metric: str, by: float = 0.0) -> Rule:
    """The metric is better than that of the model's baseline on the same test rows.

    Args:
        metric: the name of a metric.
        by: by what share of the baseline's metric it must be better: 0.2 wants a `wape` at most 0.8 times the
            baseline's, or an `r2` at least 1.2 times.

    Raises:
        ProjectError: the metric does not exist, or `by` is not valid.
    """
    place = Place.of_caller()
    find_metric(metric, place)
    if not (_is_number(by) and 0 <= by < 1):
        raise ProjectError(f"by={by!r} must be at least 0 and less than 1", where=str(place))
    return Rule("better_than_baseline", metric, by)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(name: str, bound: float, *, more_is_better: bool, other: str, place: Place) -> None:
    metric = find_metric(name, place)
    if metric.more_is_better is not more_is_better:
        better = "more" if metric.more_is_better else "less"
        raise ProjectError(
            f"{better} is better for {name}: this rule would pass worse versions and refuse better versions",
            where=str(place),
            remedy=f"Write {other}.",
        )
    if not _is_number(bound):
        raise ProjectError(f"the bound {bound!r} must be a number", where=str(place))
    if not metric.low <= bound <= metric.high:
        raise ProjectError(
            f"{name} is between {metric.low:g} and {metric.high:g}, so the bound {bound!r} has no effect",
            where=str(place),
        )
