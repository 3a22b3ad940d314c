"""Why a served row of an as-of view is not the row that a training set sees, and the delay that fits best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from headrace.features.checks.recompute import ServedPrediction
from headrace.features.offline.point_in_time import as_of_rows
from headrace.features.online import RowPosition
from headrace.features.plan import AsOfView
from headrace.features.values.columns import micros_of

if TYPE_CHECKING:
    from headrace.features.checks.skew import Reason

__all__ = ["AsOfReasons", "DelayChoice"]

_SECOND = 1_000_000


class DelayChoice(NamedTuple):
    """The last fields of `skew.ViewSkew`: the declared delay, the better one, and what it would make equal."""

    declared: float | None = None
    better: float | None = None
    equal: int | None = None


class AsOfReasons:
    """The rows of one as-of view, by entity.

    Args:
        view: the view.
        table: the rows of its table, as a training set reads them.
        served: the predictions.
        code: returns the code that made a snapshot of the table; the newest for 0.
        strict: whether a row of exactly the moment is not visible.
    """

    def __init__(
        self,
        view: AsOfView,
        table: pl.LazyFrame,
        served: Sequence[ServedPrediction],
        code: Callable[[int], str | None],
        *,
        strict: bool,
    ) -> None:
        self._view, self._served, self._code = view, served, code
        self._margin = 1 if strict else 0
        wanted = {tuple(prediction.keys.get(key) for key in view.keys) for prediction in served}
        frame = as_of_rows(view, table).select(*view.keys, micros_of(view.time)).collect()
        self._times: dict[tuple[Any, ...], list[int]] = {}
        for *key, time in frame.iter_rows():
            if tuple(key) in wanted:
                self._times.setdefault(tuple(key), []).append(time)
        for times in self._times.values():
            times.sort()

    def find(self, indexes: Sequence[int]) -> dict[int, Reason]:
        """The reason of each of these predictions, all of which differ in the view."""
        return {index: self._find(self._served[index]) for index in indexes}

    def choose_delay(self, indexes: Sequence[int]) -> DelayChoice:
        """The delay with which the most predictions see the row that was served.

        Each prediction allows the delays with which its row is the newest visible one: at most its age, and
        more than the age of the row after it. Of the delays in whole seconds that the most predictions allow,
        the smallest is chosen.
        """
        ranges = [span for index in indexes if (span := self._delay_limits(self._served[index])) is not None]
        starts = {-(-low // _SECOND) * _SECOND for low, _ in ranges} | {self._view.delay}
        begins, ends = sorted(low for low, _ in ranges), sorted(high for _, high in ranges)
        counts = {start: bisect_right(begins, start) - bisect_right(ends, start) for start in starts}
        declared = self._view.delay / _SECOND
        best = max(counts.values())
        if not ranges or counts[self._view.delay] == best:
            return DelayChoice(declared, None, counts.get(self._view.delay, 0))
        return DelayChoice(declared, min(s for s, count in counts.items() if count == best) / _SECOND, best)

    def _find(self, prediction: ServedPrediction) -> Reason:
        position = prediction.positions.get(self._view.name)
        if not isinstance(position, RowPosition):
            return "unexplained"
        times, moment = self._times_of(prediction), prediction.at - self._margin
        if position.time is not None and position.snapshot is None:
            return "pushed row"
        visible = times[: bisect_right(times, moment - self._view.delay)]
        if self._view.ttl is not None:
            visible = [time for time in visible if time >= prediction.at - self._view.ttl]
        trained = visible[-1] if visible else None
        if position.time is not None and position.time not in times:
            return self._reason_of_change(position)
        if trained == position.time:
            return self._reason_of_change(position) if trained is not None else "unexplained"
        if position.time is None or (trained is not None and trained > position.time):
            return "table not yet built"
        return "delay too long"

    def _reason_of_change(self, position: RowPosition) -> Reason:
        then = self._code(position.snapshot) if position.snapshot is not None else None
        return "code changed" if then is not None and then != self._code(0) else "row changed"

    def _delay_limits(self, prediction: ServedPrediction) -> tuple[int, int] | None:
        """The smallest delay with which the prediction sees the row that was served, and the first one that is
        too long; None: no delay does it."""
        position = prediction.positions.get(self._view.name)
        if not isinstance(position, RowPosition) or (position.time is not None and position.snapshot is None):
            return None
        times, moment = self._times_of(prediction), prediction.at - self._margin
        if position.time is None:
            oldest = 0 if self._view.ttl is None else bisect_left(times, prediction.at - self._view.ttl)
            visible = times[oldest : bisect_right(times, moment)]
            return (moment - visible[0] + 1 if visible else 0), 1 << 62
        after = bisect_right(times, position.time)
        if after == 0 or times[after - 1] != position.time:
            return None
        is_newest = after == len(times) or times[after] > moment
        return 0 if is_newest else moment - times[after] + 1, moment - position.time + 1

    def _times_of(self, prediction: ServedPrediction) -> list[int]:
        return self._times.get(tuple(prediction.keys.get(key) for key in self._view.keys), [])
