"""Refusal rates: the share of a topic's events that was refused, by reason, in a sliding window of arrival
times and in the baseline before it.

Each commit of ingest writes into its snapshot's summary how many events it brought, by reason and by time of
arrival, in slices of a tenth of the window. So every process that reads the table sees the same rates,
whichever workers wrote the rows. Where snapshots have expired, the rows themselves are counted.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import msgspec
import polars as pl
import pyarrow as pa
from msgspec import Struct

from headrace.alerts.record import Severity
from headrace.declare.alerts import Alerts
from headrace.declare.event import Contract
from headrace.kernel.properties import ARRIVALS, LATEST_ARRIVAL
from headrace.kernel.time import from_micros
from headrace.lake import LakeTable

__all__ = ["RefusalKey", "RefusalRate", "RefusalRates", "count_arrivals", "severity_of"]

RefusalKey = tuple[str, str | None]
"""A refusal code and the field, if there is one."""

SLICES = 12  # a summary holds only the newest slices of a commit: a batch of a backlog may span days
HYSTERESIS = 0.75  # an alert drops to a lower severity only below this part of its limit, so it does not flap
LEAST_REFUSED = 10  # with fewer events refused for a reason, growth does not count

_MICROS = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode
# Each slice: its beginning in microseconds since 1970, its events, and [code, field, events] of each reason.
_Slice = tuple[int, int, list[tuple[str, str | None, int]]]
_decode = msgspec.json.Decoder(list[_Slice]).decode


class RefusalRate(Struct, frozen=True):
    """How often events were refused for one reason.

    Attributes:
        refused, events: events in the window.
        baseline: the share in the time before the window; None if too few events arrived then.
    """

    refused: int
    events: int
    baseline: float | None

    @property
    def share(self) -> float:
        """Refused events among the window's events, 0 to 1."""
        return self.refused / self.events if self.events else 0.0

    @property
    def growth(self) -> float | None:
        """The share divided by the baseline."""
        return None if self.baseline is None else self.share / self.baseline


def severity_of(rate: RefusalRate, limits: Alerts, current: Severity | None) -> Severity | None:
    """How serious this rate is; None: not at all.

    Args:
        current: the severity of the alert that is open, if one is: it is kept until the rate is clearly lower.
    """
    if rate.events < limits.min_events:
        return current if rate.refused else None
    new, kept = _severity(rate, limits, 1.0), _severity(rate, limits, HYSTERESIS)
    if current is None or new == "critical":
        return new
    return min(current, kept, key=_rank) if _rank(kept) > _rank(new) else new


def _rank(severity: Severity | None) -> int:
    return 0 if severity is None else 1 if severity == "warning" else 2


def _severity(rate: RefusalRate, limits: Alerts, scale: float) -> Severity | None:
    """The severity by limits multiplied by `scale`."""
    has_grown = (
        rate.refused >= LEAST_REFUSED and rate.growth is not None and rate.growth >= limits.growth * scale
    )
    if rate.share >= limits.critical * scale:
        return "critical"
    if rate.share >= limits.warning * scale:
        return "critical" if has_grown else "warning"
    return "warning" if has_grown else None


def count_arrivals(rows: pa.Table, contract: Contract) -> dict[str, str]:
    """The snapshot property (ARRIVALS) for a commit of these rows; empty if the contract has no alerts."""
    if contract.alerts is None:
        return {}
    slices = _count_slices(pl.DataFrame(pl.from_arrow(rows.select(_COLUMNS))).lazy(), contract)
    return {ARRIVALS: _encode(slices[-SLICES:]).decode()}


_COLUMNS = ["_arrived_at", "_valid", "_code", "_field", "_first_offset"]


def _count_slices(rows: pl.LazyFrame, contract: Contract) -> list[_Slice]:
    """The slices of these rows, the oldest first. A replay does not count as an arrival."""
    assert contract.alerts is not None
    width = contract.alerts.window // _MICROS // 10
    names = list(contract.struct.__struct_fields__)  # an event may have any number of other fields
    at = (pl.col("_arrived_at").to_physical() // width * width).alias("at")
    rows = rows.filter(pl.col("_first_offset").is_null())
    field = pl.when(pl.col("_field").is_in(names)).then("_field")
    events, refused = pl.collect_all(
        [
            rows.select(at).group_by("at").len(),
            rows.filter(~pl.col("_valid"))
            .select(at, code="_code", field=field)
            .group_by("at", "code", "field")
            .len()
            .sort("code", "field"),
        ],
        engine="streaming",
    )
    slices: dict[int, _Slice] = {begin: (begin, count, []) for begin, count in events.sort("at").iter_rows()}
    for begin, code, name, count in refused.iter_rows():
        slices[begin][2].append((code, name, count))
    return list(slices.values())


class RefusalRates:
    """The rates of one topic, read from its table.

    Args:
        contract: the topic's contract, with `alerts`.
        table: the topic's table.

    Attributes:
        latest: the latest arrival, in microseconds since 1970, rounded down to a slice; 0 before the first.
    """

    def __init__(self, contract: Contract, table: LakeTable) -> None:
        assert contract.alerts is not None
        self._contract = contract
        self._table = table
        self._limits = contract.alerts
        self._width = self._limits.window // _MICROS // 10
        self._events: Counter[int] = Counter()
        self._refused: dict[RefusalKey, Counter[int]] = {}
        self._snapshot: int | None = None  # the newest whose counts are in
        self.latest = 0

    def update(self) -> None:
        """Adds what was committed since the last call."""
        history = self._table.snapshots()
        ids = [snapshot.id for snapshot in history]
        if self._snapshot in ids:
            for snapshot in history[ids.index(self._snapshot) + 1 :]:
                self._add(_decode(snapshot.summary.get(ARRIVALS, "[]")))
        elif history:  # the first call, or a call after the newest snapshot seen has expired
            self._events, self._refused = Counter(), {}
            oldest = int(self._table.property(LATEST_ARRIVAL) or 0) - self._span()
            # From the beginning of the oldest slice: a part of a slice would have another share.
            since = from_micros(max(0, oldest) // self._width * self._width)
            rows = self._table.scan(ids[-1]).filter(pl.col("_arrived_at") >= since).select(_COLUMNS)
            self._add(_count_slices(rows, self._contract))
        self._snapshot = ids[-1] if ids else None
        self._drop_old()

    def keys(self) -> list[RefusalKey]:
        """The reasons that occur in the window and its baseline."""
        return list(self._refused)

    def rate(self, key: RefusalKey, until: int) -> RefusalRate:
        """The rate of this reason in the window that ends at `until` (microseconds since 1970)."""
        begin = until - self._limits.window // _MICROS
        first = begin - self._limits.baseline // _MICROS
        refused = self._refused.get(key, Counter())
        before = _sum_between(self._events, first, begin)
        baseline = None
        if before >= self._limits.min_events:
            # One is added to both counts: a reason that never occurred before has not grown without bound.
            baseline = (_sum_between(refused, first, begin) + 1) / (before + 1)
        return RefusalRate(
            _sum_between(refused, begin, until + 1), _sum_between(self._events, begin, until + 1), baseline
        )

    def _add(self, slices: list[_Slice]) -> None:
        for at, events, reasons in slices:
            self.latest = max(self.latest, at)
            self._events[at] += events
            for code, field, count in reasons:
                if code not in self._limits.ignore:
                    self._refused.setdefault((code, field), Counter())[at] += count

    def _span(self) -> int:
        return (self._limits.window + self._limits.baseline) // _MICROS

    def _drop_old(self) -> None:
        oldest = self.latest - self._span() - self._width
        for counts in (self._events, *self._refused.values()):
            for at in [at for at in counts if at < oldest]:
                del counts[at]
        self._refused = {key: counts for key, counts in self._refused.items() if counts}


def _sum_between(counts: Counter[int], begin: int, end: int) -> int:
    return sum(count for at, count in counts.items() if begin <= at < end)
