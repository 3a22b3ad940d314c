"""Why a served row of an as-of view is not the row that a training set sees, and the delay that fits best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from headrace.features.aggregates.column import Ints
from headrace.features.checks.recompute import ServedPrediction
from headrace.features.offline.columns import check_columns
from headrace.features.offline.point_in_time import states
from headrace.features.online import RowPosition
from headrace.features.plan import AsOfView

if TYPE_CHECKING:
    from headrace.features.checks.skew import Reason

__all__ = ["AsOfReasons", "DelayChoice", "DelayCounts"]

_SECOND = 1_000_000
_TIME = "__time"
_NONE = np.empty(0, np.int64)


class DelayChoice(NamedTuple):
    """The last fields of `skew.ViewSkew`: the declared delay, the better one, and what it would make equal."""

    declared: float | None = None
    better: float | None = None
    equal: int | None = None


class DelayCounts:
    """Counts, for each delay in whole seconds, the predictions that see the row that was served with it.

    It keeps two numbers for each second that is a limit of a prediction, so its size depends on the ages of the
    rows and not on how many predictions there are.

    Args:
        declared: the declared delay, microseconds.
    """

    def __init__(self, declared: int) -> None:
        self._declared, self._equal = declared, 0
        self._begins: Counter[int] = Counter()
        self._ends: Counter[int] = Counter()

    def add(self, limits: Sequence[tuple[int, int]]) -> None:
        """Adds predictions (AsOfReasons.delay_limits)."""
        self._equal += sum(low <= self._declared < high for low, high in limits)
        self._begins.update(-(-low // _SECOND) for low, _ in limits)
        self._ends.update(-(-high // _SECOND) for _, high in limits)

    def choose(self) -> DelayChoice:
        """The smallest delay with which the most predictions see the row that was served; the declared one, if
        no other is better."""
        declared, equal = self._declared / _SECOND, 0
        better, best = None, self._equal
        for second in sorted({*self._begins, *self._ends}):
            equal += self._begins[second] - self._ends[second]
            if equal > best:
                better, best = float(second), equal
        return DelayChoice(declared, better, best)


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
        rows = states(view, table)
        check_columns(view, rows.collect_schema())
        instants = pl.col(view.time).cast(pl.Datetime("us", "UTC")).to_physical()
        times = rows.select(*view.keys, instants.alias(_TIME)).drop_nulls()
        if view.keys:
            schema = times.collect_schema()
            wanted = pl.DataFrame(
                [[prediction.keys.get(key) for key in view.keys] for prediction in served],
                {key: schema[key] for key in view.keys},
                orient="row",
                strict=False,
            )
            times = times.join(wanted.lazy(), on=view.keys, how="semi")
        frame = times.unique().sort(_TIME).collect(engine="streaming")
        groups = frame.group_by(view.keys, maintain_order=True) if view.keys else [((), frame)]
        self._times = {key: rows[_TIME].to_numpy() for key, rows in groups}

    def find(self, indexes: Sequence[int]) -> dict[int, Reason]:
        """The reason of each of these predictions, all of which differ in the view."""
        return {index: self._find(self._served[index]) for index in indexes}

    def delay_limits(self, indexes: Sequence[int]) -> list[tuple[int, int]]:
        """For each of these predictions that some delay makes equal: the smallest delay with which it sees the
        row that was served, and the first one that is too long, microseconds."""
        limits = (self._delay_limits(self._served[index]) for index in indexes)
        return [limit for limit in limits if limit is not None]

    def _find(self, prediction: ServedPrediction) -> Reason:
        position = prediction.positions.get(self._view.name)
        if not isinstance(position, RowPosition):
            return "unexplained"
        times, moment = self._times_of(prediction), prediction.at - self._margin
        if position.time is not None and position.snapshot is None:
            return "pushed row"
        end = bisect_right(times, moment - self._view.delay)
        trained = int(times[end - 1]) if end else None
        if trained is not None and self._view.ttl is not None and trained < prediction.at - self._view.ttl:
            trained = None
        at = None if position.time is None else bisect_left(times, position.time)
        if at is not None and (at == len(times) or times[at] != position.time):
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
        """See delay_limits; None: no delay does it.

        A prediction allows the delays with which its row is the newest visible one: at most its age, and more
        than the age of the row after it.
        """
        position = prediction.positions.get(self._view.name)
        if not isinstance(position, RowPosition) or (position.time is not None and position.snapshot is None):
            return None
        times, moment = self._times_of(prediction), prediction.at - self._margin
        if position.time is None:
            oldest = 0 if self._view.ttl is None else bisect_left(times, prediction.at - self._view.ttl)
            sees_one = oldest < bisect_right(times, moment)
            return (moment - int(times[oldest]) + 1 if sees_one else 0), 1 << 62
        after = bisect_right(times, position.time)
        if after == 0 or times[after - 1] != position.time:
            return None
        is_newest = after == len(times) or times[after] > moment
        return 0 if is_newest else moment - int(times[after]) + 1, moment - position.time + 1

    def _times_of(self, prediction: ServedPrediction) -> Ints:
        """The times of the entity's rows, ascending."""
        return self._times.get(tuple(prediction.keys.get(key) for key in self._view.keys), _NONE)
