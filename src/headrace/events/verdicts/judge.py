"""The judge: a contract and raw events in, one verdict an event out, as rows of the topic's table."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.fields import TIMESTAMP
from headrace.events.contracts.shape import META, shape_of
from headrace.events.contracts.times import FIRST as EARLIEST
from headrace.events.contracts.times import LAST as LATEST
from headrace.events.formats import Format
from headrace.events.formats.refusals import MAX_REASON_LENGTH, Refusal
from headrace.events.verdicts.columns import columns_of
from headrace.events.verdicts.decode import Decoder
from headrace.events.verdicts.instances import instance_of
from headrace.events.verdicts.seen import Seen
from headrace.events.verdicts.watermarks import Watermarks
from headrace.kernel.properties import FIRST_POSITION
from headrace.kernel.time import from_micros, micros
from headrace.log.port import Batch, Headers

__all__ = ["First", "Judge", "Verdicts", "first_of"]


First = tuple[int, int]
_FIRST_FORM = re.compile(rb"(\d{1,9}):(\d{1,18})")
_MICROSECOND = timedelta(microseconds=1)
_GOOD = ("_log_partition", "_log_offset", "_arrived_at")


@dataclass(frozen=True)
class Verdicts:
    """What became of a batch.

    Attributes:
        rows: every event once, as the topic's table stores it (shape.table_schema); good ones first,
            each part in the order of the batch.
        good: how many of them are good.
        refused: code → how many.
        latest: the latest arrival, microseconds since 1970; 0 in an empty batch.
        extra: field that the contract does not name → how many events carry it; of an event's several
            the first counts, and beyond 20 names they count together. They are in column `_extra`.
        watermarks: the topic's with this batch, as text (verdicts.watermarks).
    """

    rows: pa.Table
    good: int
    refused: Counter[str]
    latest: int
    extra: Counter[str] = field(default_factory=Counter)
    watermarks: str = "{}"

    @property
    def online(self) -> pa.Table:
        """The good part without the columns of refusal: contract fields, _log_partition, _log_offset
        and _arrived_at."""
        fields = [name for name in self.rows.column_names if name not in META.names]
        return self.rows.slice(0, self.good).select([*fields, *_GOOD])


class Judge:
    """Judges the events of one topic.

    Args:
        contract: what they must be.
        admitted: which of some first positions the topic's table already holds as good; by default
            all of them, since who does not know must not admit one twice.
        format: how they lie in bytes; by default as the contract says.
        folder: where identities seen lately are kept once they are many; by default the machine's
            folder for temporary files.
        watermarks: how far the topic's admitted events have come; by default there were none yet.

    Attributes:
        contract: the contract.
        watermarks: as they now are.
    """

    def __init__(
        self,
        contract: Contract,
        admitted: Callable[[Collection[First]], Collection[First]] = frozenset,
        format: Format | None = None,
        folder: Path | None = None,
        watermarks: Watermarks | None = None,
    ) -> None:
        self.contract = contract
        self.watermarks = watermarks or Watermarks()
        self._shape = shape_of(contract)
        self._decoder = Decoder(contract, self._shape, format or formats.open(contract))
        self._admitted = admitted
        self._seen = None
        if contract.dedup_within is not None:
            self._seen = Seen(contract.dedup_within, folder or Path(tempfile.gettempdir()), self.watermarks)

    def remember(self, good: pl.DataFrame) -> None:
        """Takes good rows of the topic's table as admitted: `_log_partition`, and the contract's time and
        identity.

        Raises:
            Unavailable: there is no room on the disk for what is kept of them.
        """
        if self._seen is not None:
            times = good[self.contract.time].to_physical().to_numpy()
            partitions = good["_log_partition"].to_numpy()
            self._seen.remember(good.select(self.contract.identity), times, partitions)

    def judge(self, batch: Batch, unwritable: Mapping[int, Refusal] | None = None) -> Verdicts:
        """One verdict for each event of the batch. No event raises.

        Args:
            batch: the events.
            unwritable: place in the batch → why that event is refused unread.

        Raises:
            Unavailable: what the format needs to know is not to be had now, and nothing is decided; or there
                is no room on the disk for identities, and nobody must go on with this judge.

        Good events are remembered as admitted: whoever does not store the verdicts must not go on
        with this judge.
        """
        decoded = self._decoder.decode(batch.values, unwritable or {})
        places, refused = decoded.places, decoded.refused
        made = columns_of(decoded.events, self._shape.fields, self.contract)
        table, broken = made.table, made.broken
        if self._shape.checks:
            self._check(decoded.events, broken)
        arrived = batch.arrived_at[places]
        times = _micros(table[self.contract.time])
        firsts = _firsts(batch.headers)
        # A replay is somebody's decision, made later: it is not too late.
        replayed = np.isin(places, list(firsts)) if firsts else np.zeros(len(places), bool)
        self._refuse_by_time(times, arrived, replayed, broken)
        keep = np.ones(len(places), bool)
        keep[list(broken)] = False
        if firsts:
            self._refuse_replayed(firsts, places, keep, broken)
        if self._seen is not None:
            self._refuse_seen(self._seen, table, times, batch, places, keep, broken)
        else:
            self.watermarks.take(batch.partitions[places][keep], times[keep], arrived[keep])
        refused |= {int(places[at]): reason for at, reason in broken.items()}
        if broken:
            table = table.filter(pa.array(keep))
            places = places[keep]
        bad = sorted(refused)
        reasons = [refused[at] for at in bad]
        nothing = _nothing(table.schema, len(bad))
        rows = pa.concat_tables(
            [
                _stamped(table, batch, places, None, firsts, decoded.surplus),
                _stamped(nothing, batch, np.array(bad, np.int64), reasons, firsts, {}),
            ]
        )
        latest = int(batch.arrived_at.max(initial=0))
        codes = Counter([reason.code for reason in reasons])
        return Verdicts(rows, len(places), codes, latest, decoded.extra, self.watermarks.text())

    def _check(self, events: list[Struct], broken: dict[int, Refusal]) -> None:
        """The declared structs' own `__post_init__`, for every event that is right so far."""
        for at, event in enumerate(events):
            if at not in broken:
                try:
                    instance_of(event, self._shape, self.contract)
                except (ValueError, TypeError) as error:
                    broken[at] = Refusal("out_of_range", None, str(error)[:MAX_REASON_LENGTH])
                except Exception as error:  # the contract's own code: whatever it does is a verdict
                    why = f"{type(error).__name__}: {error}"[:MAX_REASON_LENGTH]
                    broken[at] = Refusal("out_of_range", None, why)

    def _refuse_by_time(
        self,
        times: NDArray[np.int64],
        arrived: NDArray[np.int64],
        replayed: NDArray[np.bool_],
        broken: dict[int, Refusal],
    ) -> None:
        """An event may not be older than the contract takes, and lie so far after its arrival, and so far
        before it unless it is replayed."""
        oldest = self.contract.oldest
        for at in np.flatnonzero(times < micros(oldest)).tolist():
            why = f"{from_micros(int(times[at]))} lies before {oldest}, the oldest that the contract takes"
            broken.setdefault(at, Refusal("out_of_range", self.contract.time, why))
        bounds = [("future", times > arrived + _span(self.contract.max_ahead), "after")]
        if self.contract.max_late is not None:
            early = times < arrived - _span(self.contract.max_late)
            bounds.append(("late", early & ~replayed, "before"))
        for code, outside, side in bounds:
            for at in np.flatnonzero(outside).tolist():
                time, arrival = from_micros(int(times[at])), from_micros(int(arrived[at]))
                why = f"{time} is too far {side} its arrival at {arrival}"
                broken.setdefault(at, Refusal(code, self.contract.time, why))

    def _refuse_replayed(
        self,
        firsts: dict[int, First],
        places: NDArray[np.int64],
        keep: NDArray[np.bool_],
        broken: dict[int, Refusal],
    ) -> None:
        """A replayed event is admitted once, however often it is replayed."""
        admitted = set(self._admitted(set(firsts.values())))
        for at in np.flatnonzero(keep).tolist():
            first = firsts.get(int(places[at]))
            if first in admitted:
                keep[at] = False
                broken[at] = Refusal("duplicate", None, "the event it replays was admitted before")
            elif first is not None:
                admitted.add(first)

    def _refuse_seen(
        self,
        seen: Seen,
        table: pa.Table,
        times: NDArray[np.int64],
        batch: Batch,
        places: NDArray[np.int64],
        keep: NDArray[np.bool_],
        broken: dict[int, Refusal],
    ) -> None:
        identity = table.select(self.contract.identity)
        if broken:
            identity, times, places = identity.filter(pa.array(keep)), times[keep], places[keep]
        frame = pl.DataFrame(pl.from_arrow(identity))
        new = seen.admit(frame, times, batch.arrived_at[places], batch.partitions[places])
        again = np.flatnonzero(keep)[~new].tolist()
        keep[again] = False
        why = f"one with the same {', '.join(self.contract.identity)} was admitted"
        for at in again:
            broken[at] = Refusal("duplicate", None, why)


def _span(span: timedelta) -> int:
    """A duration in microseconds; none is longer than all of time."""
    return min(span // _MICROSECOND, LATEST - EARLIEST)


def first_of(headers: Headers | None) -> First | None:
    """Where the record with these headers first stood, if it is a replay."""
    form = _FIRST_FORM.fullmatch(headers.get(FIRST_POSITION, b"")) if headers else None
    return None if form is None else (int(form.group(1)), int(form.group(2)))


def _firsts(headers: Collection[Headers | None]) -> dict[int, First]:
    """Place → first position, for the records that were replayed."""
    found: dict[int, First] = {}
    if not any(headers):
        return found
    for at, one in enumerate(headers):
        first = first_of(one)
        if first is not None:
            found[at] = first
    return found


def _micros(column: Any) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return micros


def _nothing(schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)


def _stamped(
    table: pa.Table,
    batch: Batch,
    places: NDArray[np.int64],
    reasons: list[Refusal] | None,
    firsts: dict[int, First],
    surplus: Mapping[int, str],
) -> pa.Table:
    """The rows with META's columns: where and when each event arrived, and why it is refused if it is."""
    count = len(places)
    columns: dict[str, Any] = {
        "_log_partition": batch.partitions[places],
        "_log_offset": batch.offsets[places],
        "_arrived_at": pa.array(batch.arrived_at[places], pa.int64()).cast(TIMESTAMP),
        "_valid": np.full(count, reasons is None),
    }
    if reasons is not None:
        columns["_raw"] = [batch.values[at] for at in places.tolist()]
        columns["_code"] = [reason.code for reason in reasons]
        columns["_field"] = [reason.field and _storable(reason.field) for reason in reasons]
        columns["_reason"] = [_storable(reason.reason) for reason in reasons]
    if surplus:
        columns["_extra"] = [surplus.get(at) for at in places.tolist()]
    if firsts:
        mine = [firsts.get(at, (None, None)) for at in places.tolist()]
        columns["_first_partition"] = [partition for partition, _ in mine]
        columns["_first_offset"] = [offset for _, offset in mine]
    for one in META:
        values = columns.get(one.name)
        array = pa.nulls(count, one.type) if values is None else _typed(values, one.type)
        table = table.append_column(one, array)
    return table


def _storable(text: str) -> str:
    """The text, with lone surrogates spelled out: it may quote an event or the words of the contract's code."""
    return text.encode("utf-8", "backslashreplace").decode()


def _typed(values: Any, type_: pa.DataType) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, type_)
