"""Quarantine: the refused events of a topic that still wait, why, and once more through the contract.

An event waits until it, or a replay of it, is admitted. Replayed and refused again, it waits under its
latest reason. Duplicates wait too: a contract may have been wrong about what makes two events the same.

The raw bytes are read only of the events that were chosen: what is asked of millions that wait needs
memory for where they lie, not for what they are.
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
    "Choice",
    "Group",
    "Replay",
    "Waiting",
    "groups",
    "replay",
    "show",
    "text_of",
]

EXAMPLES = 3
MOST_EVENTS, MOST_BYTES = 1_000_000, 256 << 20
"""What one replay may hold: it is one transaction, and all of it is in memory."""


class Choice(Struct, frozen=True):
    """Which of the events that wait; each part narrows it.

    Attributes:
        code, field: refused for this.
        positions: first stood at one of these (log partition, offset).
        since, until: arrived (the last time they were refused) at or after, and before.
        limit: at most so many.
    """

    code: str | None = None
    field: str | None = None
    positions: tuple[FirstPosition, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None


class Waiting(Struct, frozen=True):
    """One refused event.

    Attributes:
        partition, offset: where it first stood on the log.
        arrived_at: when it arrived, the last time it was refused.
        code, field, reason: why.
        raw: its bytes.
    """

    partition: int
    offset: int
    arrived_at: datetime
    code: str
    field: str | None
    reason: str
    raw: bytes


class Group(Struct, frozen=True):
    """Refused events of one reason: a code and a field.

    Attributes:
        count: how many wait.
        share: of all events of the topic (0 to 1); replays do not count.
        first, last: when the earliest and the latest of them arrived, UTC.
        examples: the latest of them, at most three, the newest first.
    """

    code: str
    field: str | None
    count: int
    share: float
    first: datetime
    last: datetime
    examples: tuple[Waiting, ...]


class Replay(Struct, frozen=True):
    """What was, or would be, put on the log once more.

    Attributes:
        events: how many.
        size: their bytes.
        reasons: (code, field, events) of each reason among them, the most frequent first.
        too_large: where those first stood that the topic does not take (any more): they wait on.
    """

    events: int
    size: int
    reasons: tuple[tuple[str, str | None, int], ...]
    too_large: tuple[FirstPosition, ...] = ()


def groups(contract: Contract, lake: Lake) -> list[Group]:
    """What waits, by code and field, the most frequent first."""
    if not lake.table_exists(contract.table):
        return []
    arrived = lake.table(contract.table).scan().select(pl.col("_first_offset").is_null().sum()).collect().item()
    waiting = _waiting(contract, lake).sort("arrived_at", "partition", "offset").collect()
    by = waiting.group_by("code", "field", maintain_order=True)
    found = by.agg(
        count=pl.len(), first=pl.col("arrived_at").first(), last=pl.col("arrived_at").last()
    ).sort("count", "code", "field", descending=[True, False, False])  # fmt: skip
    examples: dict[tuple[str, str | None], list[Waiting]] = {}
    for one in _with_raw(contract, lake, by.tail(EXAMPLES)):
        examples.setdefault((one.code, one.field), []).append(one)
    return [
        Group(
            one["code"], one["field"], one["count"], one["count"] / arrived, one["first"], one["last"],
            tuple(reversed(examples[one["code"], one["field"]])),
        )
        for one in found.iter_rows(named=True)
    ]  # fmt: skip


def show(contract: Contract, lake: Lake, choice: Choice) -> list[Waiting]:
    """The chosen events that wait, the newest first.

    Raises:
        CallError: there is no such code.
    """
    rows = _chosen(contract, lake, choice).sort("arrived_at", "partition", "offset", descending=True)
    return _with_raw(contract, lake, (rows if choice.limit is None else rows.head(choice.limit)).collect())


def replay(
    contract: Contract,
    lake: Lake,
    log: Log,
    choice: Choice,
    schema_registry: SchemaRegistry | None = None,
    *,
    dry_run: bool = False,
) -> Replay:
    """Puts the chosen events on the log once more, in one transaction, for ingest to judge anew; those
    that have waited longest come first.

    Each carries the header `headrace.first`, where it first stood: however often it is replayed, it is
    admitted once. Its key is always the same (events.verdicts.keys.key_reader), so all replays of one event are
    in one log partition and are judged in order.

    Args:
        schema_registry: where the schemas are that the events name, if the contract's format has such.
        dry_run: only say what would be put there.

    Raises:
        CallError: there is no such code, or more is chosen than one transaction takes.
        ProjectError: the contract's format needs a registry.
    """
    rows = _chosen(contract, lake, choice).sort("arrived_at", "partition", "offset")
    chosen = (rows if choice.limit is None else rows.head(choice.limit)).collect()
    found = _replay(chosen)
    if found.events > MOST_EVENTS or found.size > MOST_BYTES:
        raise CallError(
            f"{found.events:,} events of {found.size / 1e6:,.0f} MB are chosen: a replay is one transaction,"
            f" of at most {MOST_EVENTS:,} events and {MOST_BYTES / 1e6:,.0f} MB",
            where=f"topic {contract.topic}",
            remedy="Take some with --limit, let ingest judge them, and go on: what waits longest comes first.",
        )
    if found.events and not dry_run:
        events = _with_raw(contract, lake, chosen)
        values = [one.raw for one in events]
        keys = key_reader(contract, formats.open(contract, schema_registry))(values)
        positions = append_fitting(
            log,
            contract.topic,
            values,
            [digest_of(raw) if key is None else key for raw, key in zip(values, keys, strict=True)],
            [{FIRST_POSITION: b"%d:%d" % (one.partition, one.offset)} for one in events],
        )
        is_large = pl.Series([position is None for position in positions])
        large = chosen.filter(is_large).select("partition", "offset").rows()
        found = _replay(chosen.filter(~is_large), tuple(large))
    return found


def text_of(raw: bytes) -> tuple[str, str]:
    """An event's bytes as text, and how they became it: `utf-8`, or `base64` where they are no UTF-8."""
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
    "_log_partition": pl.Int32,  # where it stands since it was last replayed
    "_log_offset": pl.Int64,
}


def _waiting(contract: Contract, lake: Lake) -> pl.LazyFrame:
    """The events that wait, one row each."""
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
            *_AT, **first, arrived_at="_arrived_at", code="_code", field="_field", reason="_reason",
            size=pl.col("_raw").bin.size(),
        )
        .join(admitted, on=["partition", "offset"], how="anti")
        .sort("arrived_at", "_log_offset")
        .unique(["partition", "offset"], keep="last", maintain_order=True)
        .select(list(_COLUMNS))
    )  # fmt: skip


def _chosen(contract: Contract, lake: Lake, choice: Choice) -> pl.LazyFrame:
    """What waits, narrowed; the limit is for whoever has put it in order."""
    if choice.code is not None and choice.code not in CODES:
        raise CallError(f"{choice.code!r} is no code of refusal", remedy=f"The codes are {', '.join(CODES)}.")
    rows = _waiting(contract, lake)
    if choice.code is not None:
        rows = rows.filter(pl.col("code") == choice.code)
    if choice.field is not None:
        rows = rows.filter(pl.col("field") == choice.field)
    if choice.since is not None:
        rows = rows.filter(pl.col("arrived_at") >= choice.since)
    if choice.until is not None:
        rows = rows.filter(pl.col("arrived_at") < choice.until)
    if choice.positions:
        schema = {"partition": pl.Int32, "offset": pl.Int64}
        wanted = pl.LazyFrame(list(choice.positions), schema=schema, orient="row")
        rows = rows.join(wanted, on=["partition", "offset"], how="semi")
    return rows


def _with_raw(contract: Contract, lake: Lake, rows: pl.DataFrame) -> list[Waiting]:
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
    return [Waiting(**one) for one in whole.select(Waiting.__struct_fields__).iter_rows(named=True)]


def _replay(rows: pl.DataFrame, too_large: tuple[FirstPosition, ...] = ()) -> Replay:
    return Replay(len(rows), int(rows["size"].sum()), _reasons(rows), too_large)


def _reasons(rows: pl.DataFrame) -> tuple[tuple[str, str | None, int], ...]:
    counted = rows.group_by("code", "field").len().sort("len", "code", "field", descending=[True, False, False])
    return tuple(counted.iter_rows())
