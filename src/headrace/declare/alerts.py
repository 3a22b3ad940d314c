"""Alerts: from which rate on refused events of a topic raise an alert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import duration

__all__ = ["Alerts"]


@dataclass(frozen=True)
class Alerts:
    """What share of a topic's events may be refused for one reason (a code and a field).

    The share is that of the events that arrived within `window`. A share that has grown `trend`-fold
    against the time `before` it is taken one step more seriously: below `warning` it is a warning, from
    `warning` on it is critical.

    Attributes:
        warning, critical: the shares from which an alert is a warning, and critical; 0 to 1.
        trend: how many times the share of the time before, from which it counts as grown.
        window, before: how long the time is, and the time before it.
        least: with fewer events in the window nothing is raised.
        ignore: codes that raise nothing.
    """

    warning: float
    critical: float
    trend: float
    window: timedelta
    before: timedelta
    least: int
    ignore: tuple[str, ...]

    def __init__(
        self,
        warning: float = 0.01,
        critical: float = 0.1,
        *,
        trend: float = 5.0,
        window: str | timedelta = "5m",
        before: str | timedelta = "1h",
        least: int = 200,
        ignore: Sequence[str] = (),
    ) -> None:
        where = str(Place.of_caller())
        if not 0 < warning <= critical <= 1:
            raise ProjectError(
                f"warning={warning:g} and critical={critical:g} are shares: 0 < warning ≤ critical ≤ 1",
                where=where,
            )
        if trend <= 1 or least < 1:
            raise ProjectError(
                f"trend={trend:g} must be greater than 1, and least={least} at least 1", where=where
            )
        try:
            times = duration(window), duration(before)
        except ValueError as error:
            raise ProjectError(str(error), where=where) from error
        if times[0] < timedelta(seconds=10) or times[1] < times[0]:
            raise ProjectError("window is 10s or more, and before no shorter than it", where=where)
        for name, value in (
            ("warning", warning), ("critical", critical), ("trend", trend), ("window", times[0]),
            ("before", times[1]), ("least", least), ("ignore", tuple(ignore)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
