"""Alerts: from which share of refused events on a topic raises an alert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

__all__ = ["Alerts"]


@dataclass(frozen=True)
class Alerts:
    """What share of a topic's events may be refused for one reason (a code and a field).

    The share is that of the events that arrived within `window`. If it is at least `growth` times the share
    in the `baseline` before, it counts one step more: below `warning` as a warning, from `warning` on as
    critical.

    Attributes:
        warning, critical: shares from which on an alert is a warning, and critical; 0 to 1.
        growth: how many times the baseline's share counts as grown; more than 1.
        window: how long the window is; 10 s or more.
        baseline: how long the time before the window is that it is compared with.
        min_events: the events that a window needs before an alert is raised.
        ignore: codes that raise no alert.
    """

    warning: float
    critical: float
    growth: float
    window: timedelta
    baseline: timedelta
    min_events: int
    ignore: tuple[str, ...]

    def __init__(
        self,
        warning: float = 0.01,
        critical: float = 0.1,
        *,
        growth: float = 5.0,
        window: str | timedelta = "5m",
        baseline: str | timedelta = "1h",
        min_events: int = 200,
        ignore: Sequence[str] = (),
    ) -> None:
        """Raises ProjectError where a limit is out of range or a duration cannot be read."""
        where = str(Place.of_caller())
        if not 0 < warning <= critical <= 1:
            raise ProjectError(
                f"warning={warning:g} and critical={critical:g} are shares: 0 < warning ≤ critical ≤ 1",
                where=where,
            )
        if growth <= 1 or min_events < 1:
            raise ProjectError(
                f"growth={growth:g} must be greater than 1, and min_events={min_events} at least 1", where=where
            )
        try:
            window, baseline = parse_duration(window), parse_duration(baseline)
        except ValueError as error:
            raise ProjectError(str(error), where=where) from error
        if window < timedelta(seconds=10) or baseline < window:
            raise ProjectError("window must be 10s or more, and baseline at least as long", where=where)
        values = {
            "warning": warning,
            "critical": critical,
            "growth": growth,
            "window": window,
            "baseline": baseline,
            "min_events": min_events,
            "ignore": tuple(ignore),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
