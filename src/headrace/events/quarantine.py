"""Quarantine: the refused events of a topic, why they were refused, and their replay through the contract.

An event is in quarantine until it, or a replay of it, is admitted. If a replay is refused again, the event
stays under its latest reason. Duplicates are there too: a contract may have been wrong about what makes two
events the same.

Raw bytes are read of the selected events only: a question about millions of events needs memory for their
positions, not for their contents.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.shape import CODES
from headrace.events.verdicts.judge import FirstPosition
from headrace.events.verdicts.keys import digest_of, key_reader
from headrace.kernel.errors import CallError
from headrace.kernel.properties import FIRST_POSITION
from headrace.lake import Lake
from headrace.log import Log, append_fitting

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = [
    "MOST_BYTES",
    "MOST_EVENTS",
    "QuarantineSelection",
    "RefusalGroup",
    "RefusedEvent",
    "ReplayResult",
    "find_refused",
    "refusal_groups",
    "replay",
    "text_of",
]

EXAMPLES = 3
MOST_EVENTS, MOST_BYTES = 1_000_000, 256 << 20
"""The largest replay: it is one transaction, and held in memory."""


class QuarantineSelection(Struct, frozen=True):
    """A selection of the events in quarantine; each attribute that is set narrows it.

    Attributes:
        code, field: why they were refused.
        positions: their first positions (log partition, offset).
        since, until: their last arrival, at or after, and before.
        limit: the most events.
    """

    code: str | None = None
    field: str | None = None
    positions: tuple[FirstPosition, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None


class RefusedEvent(Struct, frozen=True):
    """One refused event.

    Attributes:
        partition, offset: its first position on the log.
        arrived_at: when it arrived, the last time it was refused.
        code, field, reason: why it was refused.
        raw: its bytes.
    """

    partition: int
    offset: int
    arrived_at: datetime
    code: str
    field: str | None
    reason: str
    raw: bytes


class RefusalGroup(Struct, frozen=True):
    """Refused events of one reason: a code and a field.

    Attributes:
        count: how many events.
        share: their share of all events of the topic, 0 to 1; replays do not count.
        first, last: when the earliest and the latest of them arrived, UTC.
        examples: the latest three of them, the newest first.
    """

    code: str
    field: str | None
    count: int
    share: float
    first: datetime
    last: datetime
    examples: tuple[RefusedEvent, ...]


class ReplayResult(Struct, frozen=True):
    """What was, or would be, replayed.

    Attributes:
        events: how many events.
        size: their bytes.
        reasons: (code, field, events) of each reason among them, the most frequent first.
        too_large: first positions of events that are too large for the topic: they stay in quarantine.
    """

    events: int
    size: int
    reasons: tuple[tuple[str, str | None, int], ...]
    too_large: tuple[FirstPosition, ...] = ()


def refusal_groups(contract: Contract, lake: Lake) -> list[RefusalGroup]:
    """The events in quarantine by code and field, the most frequent first."""
    if not lake.table_exists(contract.table):
        return []
    arrived = lake.table(contract.table).scan().select(pl.col("_first_offset").is_null().sum()).collect().item()
    refused = _quarantine(contract, lake).sort("arrived_at", "partition", "offset").collect()
    groups = refused.group_by("code", "field", maintain_order=True)
    counts = groups.agg(
        count=pl.len(), first=pl.col("arrived_at").first(), last=pl.col("arrived_at").last()
    ).sort("count", "code", "field", descending=[True, False, False])
    examples: dict[tuple[str, str | None], list[RefusedEvent]] = {}
    for event in _with_raw(contract, lake, groups.tail(EXAMPLES)):
        examples.setdefault((event.code, event.field), []).append(event)
    return [
        RefusalGroup(code, field, count, count / arrived, first, last, tuple(reversed(examples[code, field])))
        for code, field, count, first, last in counts.iter_rows()
    ]


def find_refused(contract: Contract, lake: Lake, selection: QuarantineSelection) -> list[RefusedEvent]:
    """The selected events, the newest first.

    Raises:
        CallError: the code does not exist.
    """
    rows = _select(contract, lake, selection).sort("arrived_at", "partition", "offset", descending=True)
    limited = rows if selection.limit is None else rows.head(selection.limit)
    return _with_raw(contract, lake, limited.collect())


def replay(
    contract: Contract,
    lake: Lake,
    log: Log,
    selection: QuarantineSelection,
    schema_registry: SchemaRegistry | None = None,
    *,
    dry_run: bool = False,
) -> ReplayResult:
    """Appends the selected events to the log again, the oldest first, in one transaction, for ingest to judge.

    Each record has the header `headrace.first` with the event's first position, so that the event is admitted
    once however often it is replayed. An event's key never changes (events.verdicts.keys.key_reader), so all
    its replays are in one log partition and are judged in order.

    Args:
        contract, lake, log: the topic's contract, lake and log.
        selection: the events to replay.
        schema_registry: holds the schemas that the events name, if the contract's format needs them.
        dry_run: only report what would be replayed.

    Raises:
        CallError: the code does not exist, or more is selected than one transaction accepts.
        ProjectError: the contract's format needs a registry.
    """
    rows = _select(contract, lake, selection).sort("arrived_at", "partition", "offset")
    selected = (rows if selection.limit is None else rows.head(selection.limit)).collect()
    result = _sum_up(selected)
    if result.events > MOST_EVENTS or result.size > MOST_BYTES:
        raise CallError(
            f"{result.events:,} events of {result.size / 1e6:,.0f} MB are selected: a replay is one"
            f" transaction, of at most {MOST_EVENTS:,} events and {MOST_BYTES / 1e6:,.0f} MB",
            where=f"topic {contract.topic}",
            remedy="Replay some with --limit and let ingest judge them, then replay the next ones.",
        )
    if result.events and not dry_run:
        events = _with_raw(contract, lake, selected)
        values = [event.raw for event in events]
        keys = key_reader(contract, formats.open(contract, schema_registry))(values)
        positions = append_fitting(
            log,
            contract.topic,
            values,
            [digest_of(raw) if key is None else key for raw, key in zip(values, keys, strict=True)],
            [{FIRST_POSITION: b"%d:%d" % (event.partition, event.offset)} for event in events],
        )
        is_large = pl.Series([position is None for position in positions])
        large = selected.filter(is_large).select("partition", "offset").rows()
        result = _sum_up(selected.filter(~is_large), tuple(large))
    return result


def text_of(raw: bytes) -> tuple[str, str]:
    """An event's bytes as text, and the encoding: `utf-8`, or `base64` if they are not valid UTF-8."""
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"


_AT = ["_log_partition", "_log_offset"]
_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "partition": pl.Int32,
    "offset": pl.Int64,
    "arrived_at": pl.Datetime("us", "UTC"),
    "code": pl.String,
    "field": pl.String,
    "reason": pl.String,
    "size": pl.UInt32,
    "_log_partition": pl.Int32,  # of its last replay, if there is one
    "_log_offset": pl.Int64,
}


def _quarantine(contract: Contract, lake: Lake) -> pl.LazyFrame:
    """The events in quarantine, one row each."""
    if not lake.table_exists(contract.table):
        return pl.LazyFrame(schema=_COLUMNS)
    rows = lake.table(contract.table).scan()
    first = {
        "partition": pl.coalesce("_first_partition", "_log_partition"),
        "offset": pl.coalesce("_first_offset", "_log_offset"),
    }
    admitted = rows.filter(pl.col("_valid"), pl.col("_first_offset").is_not_null()).select(**first)
    return (
        rows.filter(~pl.col("_valid"))
        .select(
            *_AT,
            **first,
            arrived_at="_arrived_at",
            code="_code",
            field="_field",
            reason="_reason",
            size=pl.col("_raw").bin.size(),
        )
        .join(admitted, on=["partition", "offset"], how="anti")
        .sort("arrived_at", "_log_offset")
        .unique(["partition", "offset"], keep="last", maintain_order=True)
        .select(list(_COLUMNS))
    )


def _select(contract: Contract, lake: Lake, selection: QuarantineSelection) -> pl.LazyFrame:
    """The events in quarantine, narrowed; without the limit, which needs an order."""
    if selection.code is not None and selection.code not in CODES:
        raise CallError(
            f"{selection.code!r} is not a refusal code", remedy=f"The codes are {', '.join(CODES)}."
        )
    rows = _quarantine(contract, lake)
    if selection.code is not None:
        rows = rows.filter(pl.col("code") == selection.code)
    if selection.field is not None:
        rows = rows.filter(pl.col("field") == selection.field)
    if selection.since is not None:
        rows = rows.filter(pl.col("arrived_at") >= selection.since)
    if selection.until is not None:
        rows = rows.filter(pl.col("arrived_at") < selection.until)
    if selection.positions:
        schema = {"partition": pl.Int32, "offset": pl.Int64}
        positions = pl.LazyFrame(list(selection.positions), schema=schema, orient="row")
        rows = rows.join(positions, on=["partition", "offset"], how="semi")
    return rows


def _with_raw(contract: Contract, lake: Lake, rows: pl.DataFrame) -> list[RefusedEvent]:
    """The rows with their bytes, in their order."""
    if rows.is_empty():
        return []
    raw = (
        lake.table(contract.table)
        .scan()
        .filter(
            ~pl.col("_valid"),
            pl.col("_arrived_at").is_between(rows["arrived_at"].min(), rows["arrived_at"].max()),
        )
        .select(*_AT, raw="_raw")
        .join(rows.lazy().select(_AT), on=_AT, how="semi")
        .collect(engine="streaming")
    )
    whole = rows.join(raw, on=_AT, how="left", maintain_order="left")
    return [RefusedEvent(**row) for row in whole.select(RefusedEvent.__struct_fields__).iter_rows(named=True)]


def _sum_up(rows: pl.DataFrame, too_large: tuple[FirstPosition, ...] = ()) -> ReplayResult:
    return ReplayResult(len(rows), int(rows["size"].sum()), _reasons(rows), too_large)


def _reasons(rows: pl.DataFrame) -> tuple[tuple[str, str | None, int], ...]:
    counts = rows.group_by("code", "field").len().sort("len", "code", "field", descending=[True, False, False])
    return tuple(counts.iter_rows())
