"""Rates: what share of a topic's events was refused, by reason, in a window of arrivals and before it.

Each commit of ingest says in its snapshot's summary how many events it brought, by reason and by the
time they arrived in slices of a tenth of the window. So whoever looks at the table, whichever worker
wrote the rows, sees the same rates. What the snapshots no longer tell is counted in the rows.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Literal

import msgspec
import polars as pl
import pyarrow as pa
from msgspec import Struct

from headrace.declare.alerts import Alerts
from headrace.declare.event import Contract
from headrace.kernel.properties import ARRIVALS, LATEST_ARRIVAL
from headrace.kernel.time import from_micros
from headrace.lake import LakeTable

__all__ = ["Rate", "Rates", "Reason", "Severity", "arrivals", "severity"]

Severity = Literal["warning", "critical"]
Reason = tuple[str, str | None]
SLICES = 12  # of a commit, the newest: a batch of a backlog may span days
HELD = 0.75  # an alert holds until the rates are below this part of what raises one, so that it does not flap
LEAST_REFUSED = 10  # events refused for a reason before its trend says anything

_MICROS = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode
# Of each slice: its beginning in microseconds since 1970, its events, and [code, field, events] of the
# refused ones.
_Slice = tuple[int, int, list[tuple[str, str | None, int]]]
_decode = msgspec.json.Decoder(list[_Slice]).decode


class Rate(Struct, frozen=True):
    """How often one reason was met.

    Attributes:
        refused, events: in the window.
        before: the share in the time before; None where too few events arrived then to say.
    """

    refused: int
    events: int
    before: float | None

    @property
    def share(self) -> float:
        """Of the window's events, 0 to 1."""
        return self.refused / self.events if self.events else 0.0

    @property
    def grown(self) -> float | None:
        """How many times the share of the time before this one is."""
        return None if self.before is None else self.share / self.before


def severity(rate: Rate, limits: Alerts, old: Severity | None) -> Severity | None:
    """How serious this rate is; None: not at all. `old` is what it was held to be before."""
    if rate.events < limits.least:
        return old if rate.refused else None
    new, held = _severity(rate, limits, 1.0), _severity(rate, limits, HELD)
    if old is None or new == "critical":
        return new
    return min(old, held, key=_rank) if _rank(held) > _rank(new) else new


def _rank(one: Severity | None) -> int:
    return 0 if one is None else 1 if one == "warning" else 2


def _severity(rate: Rate, limits: Alerts, scale: float) -> Severity | None:
    grown = rate.refused >= LEAST_REFUSED and rate.grown is not None and rate.grown >= limits.trend * scale
    if rate.share >= limits.critical * scale:
        return "critical"
    if rate.share >= limits.warning * scale:
        return "critical" if grown else "warning"
    return "warning" if grown else None


def arrivals(rows: pa.Table, contract: Contract) -> dict[str, str]:
    """The fact (ARRIVALS) that a commit of these rows of the topic's table carries; none where nothing is
    watched."""
    if contract.alerts is None:
        return {}
    counted = _counted(pl.DataFrame(pl.from_arrow(rows.select(_COLUMNS))).lazy(), contract)
    return {ARRIVALS: _encode(counted[-SLICES:]).decode()}


_COLUMNS = ["_arrived_at", "_valid", "_code", "_field", "_first_offset"]


def _counted(rows: pl.LazyFrame, contract: Contract) -> list[_Slice]:
    """The slices of these rows, the oldest first. A replay is no arrival."""
    assert contract.alerts is not None
    width = contract.alerts.window // _MICROS // 10
    known = list(contract.struct.__struct_fields__)  # of other fields' names there may be any number
    at = (pl.col("_arrived_at").to_physical() // width * width).alias("at")
    rows = rows.filter(pl.col("_first_offset").is_null())
    field = pl.when(pl.col("_field").is_in(known)).then("_field")
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


class Rates:
    """The rates of one topic, kept level with its table.

    Args:
        contract: the topic's; it is watched.
        table: the topic's.
    """

    def __init__(self, contract: Contract, table: LakeTable) -> None:
        assert contract.alerts is not None
        self._contract = contract
        self._table = table
        self._limits = contract.alerts
        self._width = self._limits.window // _MICROS // 10
        self._events: Counter[int] = Counter()
        self._refused: dict[Reason, Counter[int]] = {}
        self._seen: int | None = None
        self.latest = 0
        """The latest arrival that was seen, microseconds since 1970, to a slice; 0: none yet."""

    def look(self) -> None:
        """Takes in what was committed since the last look."""
        history = self._table.snapshots()
        ids = [one.id for one in history]
        if self._seen in ids:
            for one in history[ids.index(self._seen) + 1 :]:
                self._take(_decode(one.summary.get(ARRIVALS, "[]")))
        elif history:  # the first look, or one after more commits than the table keeps snapshots of
            self._events, self._refused = Counter(), {}
            oldest = int(self._table.property(LATEST_ARRIVAL) or 0) - self._span()
            # From the whole of the oldest slice: half of one would be a share of its own.
            since = from_micros(max(0, oldest) // self._width * self._width)
            rows = self._table.scan(ids[-1]).filter(pl.col("_arrived_at") >= since).select(_COLUMNS)
            self._take(_counted(rows, self._contract))
        self._seen = ids[-1] if ids else None
        self._forget()

    def reasons(self) -> list[Reason]:
        """The reasons met within the times that are looked at."""
        return list(self._refused)

    def rate(self, reason: Reason, until: int) -> Rate:
        """How often this reason was met in the window that ends at `until` (microseconds since 1970)."""
        begin = until - self._limits.window // _MICROS
        first = begin - self._limits.before // _MICROS
        refused = self._refused.get(reason, Counter())
        then = _within(self._events, first, begin)
        # One more of each than there were: a reason never met before has not grown without bound.
        before = (_within(refused, first, begin) + 1) / (then + 1) if then >= self._limits.least else None
        return Rate(_within(refused, begin, until + 1), _within(self._events, begin, until + 1), before)

    def _take(self, slices: list[_Slice]) -> None:
        for at, events, reasons in slices:
            self.latest = max(self.latest, at)
            self._events[at] += events
            for code, field, count in reasons:
                if code not in self._limits.ignore:
                    self._refused.setdefault((code, field), Counter())[at] += count

    def _span(self) -> int:
        return (self._limits.window + self._limits.before) // _MICROS

    def _forget(self) -> None:
        oldest = self.latest - self._span() - self._width
        for counted in (self._events, *self._refused.values()):
            for at in [at for at in counted if at < oldest]:
                del counted[at]
        self._refused = {reason: counted for reason, counted in self._refused.items() if counted}


def _within(counted: Counter[int], begin: int, end: int) -> int:
    return sum(count for at, count in counted.items() if begin <= at < end)
