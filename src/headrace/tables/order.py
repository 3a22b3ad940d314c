"""The order of the changes of a database's rows, also when the database's log begins again.

Within one log of the database, changes are ordered by LSN. After a failover to another server, or a restore,
the LSNs may begin lower, and cannot be compared with earlier ones. `find_eras` finds where that happened by
what is impossible within one log, and `place` gives each change the number of its era, from 0. Changes are
ordered by era, then by LSN (docs/decisions/0018-eras.md).

The position of a change is where it first was on Headrace's log; a replay from quarantine records that
position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from headrace.declare.changes import CHANGED_AT

__all__ = ["COLUMNS", "ERA", "POSITION", "Era", "find_eras", "is_incremental", "is_whole_read", "place"]

ERA, POSITION, _PARTITION = "__era", "__position", "__partition"
_LOG_COLUMNS = ("_log_partition", "_log_offset", "_first_partition", "_first_offset")
COLUMNS = ("_op", "_lsn", CHANGED_AT, "_snapshot", *_LOG_COLUMNS)
"""The columns of a change that `find_eras` and `place` need, beside its key."""

_CHUNK = 1_000  # candidates tested together: the first that proves an era is usually among them


class Era(NamedTuple):
    """The beginning of a new log of the database.

    Attributes:
        time: the time of the first change that proves it, in microseconds since 1970.
        offsets: log partition → the first offset of the era; in other partitions the era begins at the time.
    """

    time: int
    offsets: dict[int, int]


def is_incremental() -> pl.Expr:
    """Whether a change is a row read by an incremental snapshot, beside the stream of changes."""
    return (pl.col("_op") == "r") & (pl.col("_snapshot") == "incremental").fill_null(False)


def is_whole_read() -> pl.Expr:
    """Whether a change is a row read by a snapshot of a whole table, while no changes were streamed."""
    return (pl.col("_op") == "r") & ~is_incremental()


def place(changes: pl.DataFrame, eras: Sequence[Era]) -> pl.DataFrame:
    """Adds to the changes their era and their position (partition and offset) on Headrace's log."""
    partition, position = pl.col(_PARTITION), pl.col(POSITION)
    era = pl.lit(0, pl.Int64)
    for start in eras:
        began = pl.col(CHANGED_AT).to_physical() >= start.time
        for number, offset in start.offsets.items():
            began = pl.when(partition == number).then(position >= offset).otherwise(began)
        era += began.cast(pl.Int64)
    return changes.with_columns(
        pl.coalesce("_first_partition", "_log_partition").alias(_PARTITION),
        pl.coalesce("_first_offset", "_log_offset").alias(POSITION),
    ).with_columns(era.alias(ERA))


def find_eras(changes: pl.DataFrame, key: Sequence[str]) -> list[Era]:
    """Where the database's log begins again among these changes, in order of time.

    A new log is proved by a change that arrived after another one and is later by time, but has a lower LSN.
    Within one log that is impossible in two cases. First, for two changes of one row, or of a row and a
    truncate: a row is locked until its change is committed, and a truncate waits for all readers. Second, for
    a snapshot: its LSN is never lower than that of an earlier change. A change that merely arrives late is
    not later by time, and a change after a clock was set back has no lower LSN.
    """
    eras: list[Era] = []
    rows = changes.select(*key, *COLUMNS)
    while (start := _next_era(place(rows, eras), key)) is not None:
        eras = sorted([*eras, start])
    return eras


def _next_era(rows: pl.DataFrame, key: Sequence[str]) -> Era | None:
    """The earliest change, by time, that belongs to another log than an earlier change of its era."""
    rows = rows.sort(_PARTITION, POSITION).with_columns(
        pl.col(CHANGED_AT).to_physical(), is_read=pl.col("_op") == "r", is_whole=is_whole_read()
    )
    log = [_PARTITION, ERA]
    streamed = pl.when(~pl.col("is_read")).then("_lsn")
    # A truncate changes every row. A later window of an incremental snapshot is later than a whole snapshot.
    of_all = pl.col("is_whole") | (pl.col("_op") == "t")
    truncated = pl.when(pl.col("_op") == "t").then("_lsn")
    highest_of_row = (
        pl.when("is_read")
        .then(_highest_before(pl.col("_lsn"), [*log, *key]))
        .otherwise(_highest_before(streamed, [*log, *key]))
    )
    limit = (
        pl.when("is_whole")
        .then(_highest_before(pl.col("_lsn"), log))
        .when(pl.col("_op") == "t")
        .then(_highest_before(pl.when(~is_incremental()).then("_lsn"), log))
        .when("is_read")
        .then(pl.max_horizontal(highest_of_row, _highest_before(pl.when(of_all).then("_lsn"), log)))
        .otherwise(pl.max_horizontal(highest_of_row, _highest_before(truncated, log)))
    )
    lower = rows.filter(pl.col("_lsn") < limit).sort(CHANGED_AT, POSITION)
    if lower.is_empty():
        return None
    columns = [*log, "_lsn", CHANGED_AT]
    candidates = [
        _first_proof(lower.filter(~of_all), rows, [*log, *key]),
        _first_proof(lower.filter(~of_all), rows.filter(of_all).unique(columns, maintain_order=True), log),
        _first_proof(lower.filter(of_all).unique(columns, maintain_order=True), rows, log, 1),
    ]
    proofs = [proof for proof in candidates if proof is not None]
    if not proofs:
        return None
    first = min(proofs, key=lambda proof: (proof[CHANGED_AT], proof[POSITION]))
    offsets = {first[_PARTITION]: first[POSITION]}
    if first["is_whole"]:
        same = rows.filter("is_whole", _lsn=first["_lsn"]).filter(pl.col(CHANGED_AT) == first[CHANGED_AT])
        offsets = dict(same.group_by(_PARTITION).agg(pl.col(POSITION).min()).sort(_PARTITION).rows())
    return Era(first[CHANGED_AT], offsets)


def _highest_before(lsn: pl.Expr, group: Sequence[str]) -> pl.Expr:
    return lsn.cum_max().forward_fill().shift(1).over(group)


def _first_proof(
    lower: pl.DataFrame, rows: pl.DataFrame, on: Sequence[str], chunk: int = _CHUNK
) -> dict[str, Any] | None:
    """The first of the changes that is later than a row with a higher LSN, which proves another log."""
    for start in range(0, len(lower), chunk):
        proofs = (
            lower[start : start + chunk]
            .join(rows, on=list(on), how="inner", nulls_equal=True, suffix="_before", maintain_order="left")
            .filter(
                pl.col(f"{POSITION}_before") < pl.col(POSITION),
                pl.col(f"{CHANGED_AT}_before") < pl.col(CHANGED_AT),
                pl.col("_lsn_before") > pl.col("_lsn"),
                ~pl.col("is_read_before")
                | pl.col("is_read")
                | ((pl.col("_op") == "t") & pl.col("is_whole_before")),
            )
        )
        if len(proofs):
            return proofs.row(0, named=True)
    return None
