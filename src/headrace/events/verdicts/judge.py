"""The judge: from a contract and raw events to one verdict per event, as rows of the topic's table."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
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
from headrace.events.contracts.times import EARLIEST, LATEST
from headrace.events.formats import Format
from headrace.events.formats.refusals import MAX_REASON_LENGTH, Refusal
from headrace.events.verdicts.columns import columns_of
from headrace.events.verdicts.decode import BatchDecoder
from headrace.events.verdicts.identities import RecentIdentities
from headrace.events.verdicts.instances import instance_of
from headrace.events.verdicts.watermarks import Watermarks
from headrace.kernel.properties import FIRST_POSITION, HISTORY
from headrace.kernel.time import from_micros, micros
from headrace.log.port import Batch, Headers

__all__ = ["FirstPosition", "Judge", "Verdicts", "find_first_position"]


FirstPosition = tuple[int, int]
"""The log partition and offset at which a replayed event was first appended."""

_FIRST_POSITION_FORM = re.compile(rb"(\d{1,9}):(\d{1,18})")
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])  # rounds no number
_META_OF_GOOD = ("_log_partition", "_log_offset", "_arrived_at", "_known_at")


@attrs.frozen
class Verdicts:
    """The verdicts on a batch.

    Attributes:
        rows: every event once, as the topic's table stores it (shape.table_schema); the good ones first,
            both parts in the order of the batch.
        good: the number of good events.
        refused: code → the number of events refused with it.
        latest: the latest arrival, microseconds since 1970; 0 for an empty batch.
        extra: field that the contract does not name → the number of events that hold it. An event counts for
            the first such field; beyond 20 names they are counted together. The values are in column `_extra`.
        watermarks: the topic's watermarks after this batch, encoded (verdicts.watermarks).
    """

    rows: pa.Table
    good: int
    refused: Counter[str]
    latest: int
    extra: Counter[str] = attrs.Factory(Counter)
    watermarks: str = "{}"

    @cached_property
    def good_rows(self) -> pa.Table:
        """The good rows: the contract's fields, _log_partition, _log_offset, _arrived_at and _known_at."""
        fields = [name for name in self.rows.column_names if name not in META.names]
        return self.rows.slice(0, self.good).select([*fields, *_META_OF_GOOD])


class Judge:
    """Judges the events of one topic.

    Args:
        contract: the contract of the topic.
        find_admitted: returns those of the given first positions that the topic's table already holds as good.
            By default all of them: without a table no replay can be shown to be new.
        format: decodes the events; by default the contract's format.
        folder: where long lists of recent identities are written; by default the machine's folder for
            temporary files.
        watermarks: the topic's watermarks; by default those of a topic without admitted events.
        history_until: events that arrived before it count as history (column `_known_at`), in addition to
            those that are marked so; None: only the marked ones.

    Attributes:
        contract: the contract.
        watermarks: the watermarks after the last batch.
    """

    def __init__(
        self,
        contract: Contract,
        find_admitted: Callable[[Collection[FirstPosition]], Collection[FirstPosition]] = frozenset,
        format: Format | None = None,
        folder: Path | None = None,
        watermarks: Watermarks | None = None,
        history_until: datetime | None = None,
    ) -> None:
        self.contract = contract
        self.watermarks = watermarks or Watermarks()
        self._shape = shape_of(contract)
        self._decimal_texts = [
            field.name
            for field in self._shape.fields
            if field.name in contract.identity
            and field.kind.core is Decimal
            and field.kind.arrow_type == pa.string()
        ]
        self._decoder = BatchDecoder(contract, self._shape, format or formats.open(contract))
        self._find_admitted = find_admitted
        self._history_until = EARLIEST if history_until is None else micros(history_until)
        self._identities = None
        if contract.dedup_within is not None:
            self._identities = RecentIdentities(
                contract.dedup_within, folder or Path(tempfile.gettempdir()), self.watermarks
            )

    def remember(self, good: pl.DataFrame) -> None:
        """Remembers good rows of the topic's table as admitted.

        Args:
            good: `_log_partition`, and the contract's time and identity.

        Raises:
            Unavailable: the disk is full.
        """
        if self._identities is not None:
            times = good[self.contract.time].to_physical().to_numpy()
            partitions = good["_log_partition"].to_numpy()
            self._identities.remember(self._identities_of(good), times, partitions)

    def judge(self, batch: Batch, unwritable: Mapping[int, Refusal] | None = None) -> Verdicts:
        """Judges each event of a batch. No event raises.

        Good events are remembered as admitted. If the verdicts are not stored, this judge must not be used
        any further.

        Args:
            batch: the events.
            unwritable: place in the batch → why that event is refused without being decoded.

        Raises:
            Unavailable: something that the format needs cannot be reached, and no event is judged; or the
                disk is full, and this judge must not be used any further.
        """
        decoded = self._decoder.decode(batch.values, unwritable or {})
        places, refused = decoded.places, decoded.refused
        columns = columns_of(decoded.events, self._shape.fields, self.contract)
        table, refusals = columns.table, columns.refusals
        if self._shape.has_checks:
            self._check(decoded.events, refusals)
        arrived = batch.arrived_at[places]
        times = _micros(table[self.contract.time])
        first_positions = _first_positions(batch.headers)
        # A replay is late on purpose, so it is never too late.
        replayed = np.isin(places, list(first_positions)) if first_positions else np.zeros(len(places), bool)
        self._refuse_by_time(times, arrived, replayed, refusals)
        good = np.ones(len(places), bool)
        good[list(refusals)] = False
        if first_positions:
            self._refuse_replayed(first_positions, places, good, refusals)
        if self._identities is not None:
            self._refuse_duplicates(self._identities, table, times, batch, places, good, refusals)
        else:
            self.watermarks.record(batch.partitions[places][good], times[good], arrived[good])
        refused |= {int(places[row]): refusal for row, refusal in refusals.items()}
        if refusals:
            table = table.filter(pa.array(good))
            places = places[good]
        refused_places = sorted(refused)
        ordered = [refused[place] for place in refused_places]
        nulls = _null_rows(table.schema, len(refused_places))
        without = np.array(refused_places, np.int64)
        is_history = self._is_history(batch)
        known, known_refused = (
            self._find_known_at(part, batch, at, is_history) for part, at in ((table, places), (nulls, without))
        )
        rows = pa.concat_tables(
            [
                _append_meta(table, batch, places, known, None, first_positions, decoded.surplus),
                _append_meta(nulls, batch, without, known_refused, ordered, first_positions, {}),
            ]
        )
        latest = int(batch.arrived_at.max(initial=0))
        codes = Counter([refusal.code for refusal in ordered])
        return Verdicts(rows, len(places), codes, latest, decoded.extra, self.watermarks.encode())

    def _is_history(self, batch: Batch) -> NDArray[np.bool_]:
        """bool[n], whether each event of the batch counts as history."""
        is_history: NDArray[np.bool_] = batch.arrived_at < self._history_until
        if any(batch.headers):
            is_history |= np.array([headers is not None and HISTORY in headers for headers in batch.headers])
        return is_history

    def _find_known_at(
        self, table: pa.Table, batch: Batch, places: NDArray[np.int64], is_history: NDArray[np.bool_]
    ) -> Any:
        """Column `_known_at` of rows at these places of the batch. A refused row has no time."""
        arrived = pa.array(batch.arrived_at[places], pa.int64()).cast(TIMESTAMP)
        return pc.if_else(pa.array(is_history[places]), table[self.contract.time], arrived)

    def _check(self, events: list[Struct], refusals: dict[int, Refusal]) -> None:
        """Runs the declared structs' `__post_init__` on every event that is good so far."""
        for row, event in enumerate(events):
            if row not in refusals:
                try:
                    instance_of(event, self._shape, self.contract)
                except (ValueError, TypeError) as error:
                    refusals[row] = Refusal("out_of_range", None, str(error)[:MAX_REASON_LENGTH])
                except (
                    Exception,
                    SystemExit,
                ) as error:  # whatever the contract's code raises
                    reason = f"{type(error).__name__}: {error}"[:MAX_REASON_LENGTH]
                    refusals[row] = Refusal("out_of_range", None, reason)

    def _refuse_by_time(
        self,
        times: NDArray[np.int64],
        arrived: NDArray[np.int64],
        replayed: NDArray[np.bool_],
        refusals: dict[int, Refusal],
    ) -> None:
        """Refuses events before `oldest`, beyond `max_ahead`, or beyond `max_late` unless they are replayed."""
        oldest = self.contract.oldest
        for row in np.flatnonzero(times < micros(oldest)).tolist():
            reason = f"{from_micros(int(times[row]))} is before {oldest}, the oldest time of the contract"
            refusals.setdefault(row, Refusal("out_of_range", self.contract.time, reason))
        bounds = [("future", times > arrived + _to_micros(self.contract.max_ahead), "after")]
        if self.contract.max_late is not None:
            late = times < arrived - _to_micros(self.contract.max_late)
            bounds.append(("late", late & ~replayed, "before"))
        for code, outside, side in bounds:
            for row in np.flatnonzero(outside).tolist():
                time, arrival = from_micros(int(times[row])), from_micros(int(arrived[row]))
                reason = f"{time} is too far {side} its arrival at {arrival}"
                refusals.setdefault(row, Refusal(code, self.contract.time, reason))

    def _refuse_replayed(
        self,
        first_positions: dict[int, FirstPosition],
        places: NDArray[np.int64],
        good: NDArray[np.bool_],
        refusals: dict[int, Refusal],
    ) -> None:
        """Refuses the replay of an event that was admitted before."""
        admitted = set(self._find_admitted(set(first_positions.values())))
        for row in np.flatnonzero(good).tolist():
            first = first_positions.get(int(places[row]))
            if first in admitted:
                good[row] = False
                refusals[row] = Refusal("duplicate", None, "the event it replays was admitted before")
            elif first is not None:
                admitted.add(first)

    def _refuse_duplicates(
        self,
        identities: RecentIdentities,
        table: pa.Table,
        times: NDArray[np.int64],
        batch: Batch,
        places: NDArray[np.int64],
        good: NDArray[np.bool_],
        refusals: dict[int, Refusal],
    ) -> None:
        identity = table.select(self.contract.identity)
        if refusals:
            identity, times, places = identity.filter(pa.array(good)), times[good], places[good]
        frame = self._identities_of(pl.DataFrame(pl.from_arrow(identity)))
        admitted = identities.admit(frame, times, batch.arrived_at[places], batch.partitions[places])
        duplicates = np.flatnonzero(good)[~admitted].tolist()
        good[duplicates] = False
        reason = f"an event with the same {', '.join(self.contract.identity)} was admitted"
        for row in duplicates:
            refusals[row] = Refusal("duplicate", None, reason)

    def _identities_of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The identity's columns. Decimals that are stored as text are written in one way for each value."""
        identities = rows.select(self.contract.identity)
        return identities.with_columns(
            pl.Series(name, map(_normalize, identities[name]), pl.String()) for name in self._decimal_texts
        )


def _normalize(text: str | None) -> str | None:
    """The text of a decimal number without trailing zeros: equal numbers have equal texts."""
    if text is None:
        return None
    number = _EXACT.create_decimal(text)
    return str(_EXACT.normalize(number)) if number else "0"


def _to_micros(span: timedelta) -> int:
    """A duration in microseconds, cut to the span of all instants so that sums fit 64 bits."""
    return min(span // _MICROSECOND, LATEST - EARLIEST)


def find_first_position(headers: Headers | None) -> FirstPosition | None:
    """Finds the first position of a replayed record in its headers; None: it is not a replay."""
    match = _FIRST_POSITION_FORM.fullmatch(headers.get(FIRST_POSITION, b"")) if headers else None
    return None if match is None else (int(match.group(1)), int(match.group(2)))


def _first_positions(headers: Collection[Headers | None]) -> dict[int, FirstPosition]:
    """The replayed records of a batch: place → first position."""
    if not any(headers):
        return {}
    positions = ((place, find_first_position(record)) for place, record in enumerate(headers))
    return {place: position for place, position in positions if position is not None}


def _micros(column: Any) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return micros


def _null_rows(schema: pa.Schema, count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in schema], schema=schema)


def _append_meta(
    table: pa.Table,
    batch: Batch,
    places: NDArray[np.int64],
    known_at: Any,
    refusals: list[Refusal] | None,
    first_positions: dict[int, FirstPosition],
    surplus: Mapping[int, str],
) -> pa.Table:
    """Appends the columns of META.

    Args:
        table: n rows of the contract's fields.
        batch: the batch they come from.
        places: int64[n], their places in it.
        known_at: Arrow's n values of `_known_at`.
        refusals: n refusals; None: the rows are good.
        first_positions, surplus: by place in the batch.
    """
    count = len(places)
    columns: dict[str, Any] = {
        "_log_partition": batch.partitions[places],
        "_log_offset": batch.offsets[places],
        "_arrived_at": pa.array(batch.arrived_at[places], pa.int64()).cast(TIMESTAMP),
        "_known_at": known_at,
        "_valid": np.full(count, refusals is None),
    }
    if refusals is not None:
        columns["_raw"] = [batch.values[place] for place in places.tolist()]
        columns["_code"] = [refusal.code for refusal in refusals]
        columns["_field"] = [refusal.field and _escape(refusal.field) for refusal in refusals]
        columns["_reason"] = [_escape(refusal.reason) for refusal in refusals]
    if surplus:
        columns["_extra"] = [surplus.get(place) for place in places.tolist()]
    if first_positions:
        positions = [first_positions.get(place, (None, None)) for place in places.tolist()]
        columns["_first_partition"] = [partition for partition, _ in positions]
        columns["_first_offset"] = [offset for _, offset in positions]
    for field in META:
        values = columns.get(field.name)
        array = pa.nulls(count, field.type) if values is None else _to_array(values, field.type)
        table = table.append_column(field, array)
    return table


def _escape(text: str) -> str:
    """Spells out lone surrogates, which cannot be stored: a reason may quote the event."""
    return text.encode("utf-8", "backslashreplace").decode()


def _to_array(values: Any, type_: pa.DataType) -> Any:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, type_)
