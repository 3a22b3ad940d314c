"""Alerts: the share of refused events on a topic that raises an alert."""

from __future__ import annotations

from datetime import timedelta

import attrs

from headrace.declare.convert import to_duration, to_tuple
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Alerts"]


@attrs.frozen
class Alerts:
    """The limits on the share of a topic's events that is refused for one reason (a code and a field).

        @event(topic="clicks", time="at", alerts=Alerts(critical=0.2, window="10m", ignore=["duplicate"]))

    The share counts the events that arrived within `window`. If it is at least `growth` times the share in the
    `baseline` before, the severity is one step higher: a warning below `warning`, critical from `warning` on.

    Args:
        warning: the share from which an alert is a warning, 0 to 1.
        critical: the share from which an alert is critical, 0 to 1.
        growth: the factor by which the share must exceed the baseline's to count as grown; more than 1.
        window: the length of the window, as text such as `5m` or a timedelta; 10 s or more.
        baseline: the length of the time before the window with which the window is compared.
        min_events: the number of events that a window needs before an alert is raised.
        ignore: codes that raise no alert.

    Raises:
        ProjectError: a limit is out of range, or a duration is not valid.
    """

    warning: float = 0.01
    critical: float = 0.1
    growth: float = attrs.field(default=5.0, kw_only=True)
    window: timedelta = attrs.field(default=timedelta(minutes=5), converter=to_duration, kw_only=True)
    baseline: timedelta = attrs.field(default=timedelta(hours=1), converter=to_duration, kw_only=True)
    min_events: int = attrs.field(default=200, kw_only=True)
    ignore: tuple[str, ...] = attrs.field(default=(), converter=to_tuple, kw_only=True)

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        if not 0 < self.warning <= self.critical <= 1:
            raise ProjectError(
                f"warning={self.warning:g} and critical={self.critical:g} are shares: "
                "0 < warning ≤ critical ≤ 1",
                where=place,
            )
        if self.growth <= 1 or self.min_events < 1:
            raise ProjectError(
                f"growth={self.growth:g} must be greater than 1, and min_events={self.min_events} at least 1",
                where=place,
            )
        if self.window < timedelta(seconds=10) or self.baseline < self.window:
            raise ProjectError("window must be 10s or more, and baseline at least as long", where=place)
