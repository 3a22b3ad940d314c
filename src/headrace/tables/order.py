"""The order of the changes of a database's rows, also when the database's log begins again.

Within one database's log that is the order of its LSNs. After a failover to another server, or a restore, the
LSNs may begin lower, and cannot be compared with those before. `find_eras` finds where that happened from what
is impossible within one log, and `place` gives each change the number of its era, from 0. Changes are ordered
by era first, then by LSN (docs/decisions/0018-eras.md).

The position of a change on Headrace's log is the one it first had there: a replay from quarantine records it.
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

_CHUNK = 1_000  # candidates tried together: the first that proves an era is usually among them


class Era(NamedTuple):
    """The beginning of another log of the database.

    Attributes:
        time: the time of the first change that proves it, in microseconds since 1970.
        offsets: log partition → the first offset of the era; in other partitions it begins at the time.
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
    """The changes with their era, and their position (partition and offset) on Headrace's log."""
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

    It does where a change arrived later, is later by time, and still has a lower LSN, which is impossible
    within one log in two cases: of two changes of one row, or of a row and a truncate, for a row is locked
    until its change is committed, and a truncate waits for whoever reads; and of a snapshot, whose LSN is
    never lower than that of a change before it. A change that arrives late is not later by time, and after a
    clock was set back the LSN is not lower.
    """
    eras: list[Era] = []
    rows = changes.select(*key, *COLUMNS)
    while (start := _next_era(place(rows, eras), key)) is not None:
        eras = sorted([*eras, start])
    return eras


def _next_era(rows: pl.DataFrame, key: Sequence[str]) -> Era | None:
    """The earliest change, by time, that belongs to another log than one before it of the same era."""
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
    each = [*log, "_lsn", CHANGED_AT]
    candidates = [
        _first_proof(lower.filter(~of_all), rows, [*log, *key]),
        _first_proof(lower.filter(~of_all), rows.filter(of_all).unique(each, maintain_order=True), log),
        _first_proof(lower.filter(of_all).unique(each, maintain_order=True), rows, log, 1),
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
    """The first of the changes that is later than a row with a higher LSN, although rows are ordered by LSN."""
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
