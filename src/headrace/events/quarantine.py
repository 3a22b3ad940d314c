"""Quarantine: the refused events of a topic that still wait, why, and once more through the contract.

An event waits until it, or a replay of it, is admitted. Replayed and refused again, it waits under its
latest reason. Duplicates wait too: a contract may have been wrong about what makes two events the same.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events.judge import FIRST, First
from headrace.events.shape import CODES
from headrace.kernel.errors import CallError
from headrace.lake import Lake
from headrace.log import Log

__all__ = ["Group", "Waiting", "groups", "replay", "show"]


class Group(Struct, frozen=True):
    """Refused events of one code and field.

    Attributes:
        count: how many wait.
        example: the latest of them as text, its first 200 characters; bytes that are no UTF-8 are
            replaced.
        reason: why that one was refused.
        first, last: when the earliest and the latest of them arrived, UTC.
    """

    code: str
    field: str | None
    count: int
    example: str
    reason: str
    first: datetime
    last: datetime


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


def groups(contract: Contract, lake: Lake) -> list[Group]:
    """What waits, by code and field, the most frequent first."""
    found = (
        _waiting(contract, lake)
        .sort("arrived_at", maintain_order=True)
        .group_by("code", "field", maintain_order=True)
        .agg(
            pl.len().alias("count"),
            pl.col("raw", "reason").last(),
            pl.col("arrived_at").first().alias("first"),
            pl.col("arrived_at").last().alias("last"),
        )
        .sort("count", "code", "field", descending=[True, False, False])
        .collect()
    )
    return [
        Group(
            one["code"], one["field"], one["count"], one["raw"][:800].decode(errors="replace")[:200],
            one["reason"], one["first"], one["last"],
        )
        for one in found.iter_rows(named=True)
    ]  # fmt: skip


def show(contract: Contract, lake: Lake, *, limit: int = 20, code: str | None = None) -> list[Waiting]:
    """The latest `limit` events that wait, newest first; of one code, where that is given.

    Raises:
        CallError: there is no such code.
    """
    rows = _chosen(_waiting(contract, lake), code).sort("arrived_at", "partition", "offset", descending=True)
    return [Waiting(**one) for one in rows.head(limit).collect().iter_rows(named=True)]


def replay(
    contract: Contract,
    lake: Lake,
    log: Log,
    *,
    code: str | None = None,
    field: str | None = None,
    positions: Collection[First] | None = None,
    limit: int | None = None,
) -> int:
    """Puts events that wait on the log once more, in one transaction, for ingest to judge anew.

    Each carries the header `headrace.first`, where it first stood: however often it is replayed, it is
    admitted once. Without a choice, all that wait are replayed.

    Args:
        code, field: only those refused for this.
        positions: only those that first stood at these (log partition, offset).
        limit: at most so many, the oldest first.

    Returns:
        How many were put on the log.

    Raises:
        CallError: there is no such code.
    """
    rows = _chosen(_waiting(contract, lake), code)
    if field is not None:
        rows = rows.filter(pl.col("field") == field)
    if positions is not None:
        wanted = pl.LazyFrame(list(positions), schema={"partition": pl.Int32, "offset": pl.Int64}, orient="row")
        rows = rows.join(wanted, on=["partition", "offset"], how="semi")
    rows = rows.sort("partition", "offset")
    chosen = (rows if limit is None else rows.head(limit)).select("partition", "offset", "raw").collect()
    headers = [{FIRST: b"%d:%d" % first} for first in chosen.select("partition", "offset").iter_rows()]
    log.append(contract.topic, chosen["raw"].to_list(), headers=headers)
    return len(headers)


def _waiting(contract: Contract, lake: Lake) -> pl.LazyFrame:
    """The events that wait, one row each, with the columns of Waiting."""
    if not lake.exists(contract.table):
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
            **first, arrived_at="_arrived_at", code="_code", field="_field", reason="_reason", raw="_raw",
            at="_log_offset",
        )
        .join(admitted, on=["partition", "offset"], how="anti")
        .sort("arrived_at", "at")
        .unique(["partition", "offset"], keep="last", maintain_order=True)
        .select(list(_COLUMNS))
    )  # fmt: skip


_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "partition": pl.Int32,
    "offset": pl.Int64,
    "arrived_at": pl.Datetime("us", "UTC"),
    "code": pl.String,
    "field": pl.String,
    "reason": pl.String,
    "raw": pl.Binary,
}


def _chosen(rows: pl.LazyFrame, code: str | None) -> pl.LazyFrame:
    if code is None:
        return rows
    if code not in CODES:
        raise CallError(f"{code!r} is no code of refusal", remedy=f"The codes are {', '.join(CODES)}.")
    return rows.filter(pl.col("code") == code)
