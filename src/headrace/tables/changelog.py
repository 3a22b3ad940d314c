"""The changelog of a database's table, read: its rows as they were at some time, and how they came to be.

Of a key's changes the order is that of the database's log (`_lsn`): a change that came late, from
quarantine or from a second delivery, takes its own place. A snapshot's rows (`r`) are the one exception:
a transaction that was under way while the snapshot was taken has lower LSNs than it, and is not in it. It
was committed later, which its time tells (docs/decisions/0011-changes.md).

Frames here have the columns that tables.read.read_input gives of a contract under @changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from headrace.declare.changes import CHANGED_AT

__all__ = ["NO_CUTS", "Cuts", "as_of", "cuts_of", "history", "is_changelog", "newest", "survivors"]

_AT, _ROW = "__at", "__row"
_LAST = ("last", "last_in_data_collection")


class Cuts(NamedTuple):
    """What takes away rows of many keys at once.

    Attributes:
        truncated: the LSN of the last TRUNCATE: a row whose last change is before it is gone.
        read: LSN and time (microseconds since 1970) of the last snapshot that was taken to its end: a row
            that is not in it and that was not changed since is gone; its delete was never sent.
    """

    truncated: int = -1
    read: tuple[int, int] = (-1, -1)

    def later(self, other: Cuts) -> Cuts:
        """The later ones of both."""
        return Cuts(max(self.truncated, other.truncated), max(self.read, other.read))


NO_CUTS = Cuts()


def is_changelog(frame: pl.LazyFrame) -> bool:
    """Whether the frame has the columns of one."""
    return {"_lsn", "_op", "_unchanged", "_snapshot", "_log_offset", CHANGED_AT} <= set(frame.collect_schema())


def as_of(changes: pl.LazyFrame, key: Sequence[str], moment: datetime) -> pl.DataFrame:
    """The table's rows as they were at a moment (aware), one a key, as their last change left them."""
    known = changes.filter(pl.col(CHANGED_AT) <= moment).collect()
    return survivors(newest(known, key), cuts_of(known))


def cuts_of(changes: pl.DataFrame) -> Cuts:
    """The last truncate and the end of the last whole snapshot among these changes."""
    ends = changes.filter((pl.col("_op") == "r") & pl.col("_snapshot").is_in(_LAST))
    lsn, time = ends.select("_lsn", pl.col(CHANGED_AT).to_physical()).max().row(0)
    truncated = changes.filter(pl.col("_op") == "t").select(pl.col("_lsn").max()).item()
    return Cuts(-1 if truncated is None else truncated, (-1, -1) if lsn is None else (lsn, time))


def newest(changes: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The last change of each key, deletes among them, whole: what the database did not send with it is taken
    from the changes before. Truncates, which have no key, are left out."""
    ordered = _ordered(changes, key)
    last = ordered.unique(key, keep="last", maintain_order=True)
    return _carried(last, ordered, key).drop(_AT)


def survivors(rows: pl.DataFrame, cuts: Cuts) -> pl.DataFrame:
    """Of the last changes of keys those whose row is still there."""
    lsn, read_at = pl.col("_lsn"), pl.col(CHANGED_AT).to_physical()
    gone = (lsn < cuts.truncated) | ((lsn < cuts.read[0]) & (read_at <= cuts.read[1]))
    return rows.filter((pl.col("_op") != "d") & ~gone)


def history(changes: pl.LazyFrame, key: Sequence[str]) -> pl.LazyFrame:
    """Every state of every row, for joins as of a time: one a key and time; a row that is gone is one of nulls.

    What the database did not send is filled with what was there before, and a truncate, and the end of a
    snapshot that lacks a row, become a delete of each row they took away.
    """
    frame = changes.collect()
    ordered = _ordered(frame, key)
    columns = [name for name in _names_unchanged(ordered) if name in ordered.columns]
    for name in columns:
        sent = ~pl.col("_unchanged").list.contains(name).fill_null(False)
        filled = pl.when(sent).then(pl.struct(name)).forward_fill().over(key, order_by=_ROW)
        ordered = ordered.with_columns(filled.struct.field(name).alias(name))
    ordered = ordered.drop(_AT, _ROW)
    cuts = _cut_rows(frame)
    gone = [_taken_by(ordered, key, one, before) for before, one in zip([None, *cuts], cuts, strict=False)]
    whole = pl.concat([ordered, *gone]) if gone else ordered
    return (
        whole.lazy()
        .sort("_lsn", pl.col("_op") != "r", maintain_order=True)
        .unique([*key, CHANGED_AT], keep="last", maintain_order=True)
    )


def _ordered(changes: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The changes that have a key, in order, with `__row` to say so and `__at`, the LSN they stand at."""
    rows = changes.drop_nulls(list(key)).with_row_index(_ROW)
    reads = rows.filter(pl.col("_op") == "r").select(*key, _ROW, lsn="_lsn", read=CHANGED_AT)
    others = rows.filter(pl.col("_op") != "r").select(*key, "_lsn", CHANGED_AT)
    # A change that a snapshot did not see though its LSN is lower: the snapshot's row stands before it.
    unseen = (
        reads.join(others, on=list(key))
        .filter((pl.col("_lsn") < pl.col("lsn")) & (pl.col(CHANGED_AT) > pl.col("read")))
        .group_by(_ROW)
        .agg(pl.col("_lsn").min().alias(_AT))
    )
    rows = rows.join(unseen, on=_ROW, how="left").with_columns(pl.coalesce(_AT, "_lsn"))
    order = [_AT, pl.col("_op") != "r", "_log_partition", "_log_offset"]
    return rows.sort(order).drop(_ROW).with_row_index(_ROW)


def _names_unchanged(rows: pl.DataFrame) -> list[str]:
    return sorted(rows["_unchanged"].drop_nulls().explode().drop_nulls().unique().to_list())


def _carried(last: pl.DataFrame, ordered: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The last changes with what they lack, from the changes before; `_unchanged` keeps what none had."""
    lacking = last.filter(pl.col("_unchanged").list.len() > 0)
    if lacking.is_empty():
        return last.drop(_ROW)
    before = ordered.join(lacking.select(key), on=list(key), how="semi")
    for name in _names_unchanged(lacking):
        sent = before.filter(~pl.col("_unchanged").list.contains(name).fill_null(False))
        known = sent.unique(key, keep="last", maintain_order=True).select(
            *key, pl.struct(name).alias("__known")
        )
        wants = pl.col("_unchanged").list.contains(name).fill_null(False) & pl.col("__known").is_not_null()
        rest = pl.col("_unchanged").list.set_difference([name])
        last = (
            last.join(known, on=list(key), how="left", maintain_order="left")
            .with_columns(
                pl.when(wants).then(pl.col("__known").struct.field(name)).otherwise(pl.col(name)).alias(name),
                pl.when(wants)
                .then(pl.when(rest.list.len() > 0).then(rest))
                .otherwise(pl.col("_unchanged"))
                .alias("_unchanged"),
            )
            .drop("__known")
        )
    return last.drop(_ROW)


def _cut_rows(changes: pl.DataFrame) -> list[dict[str, Any]]:
    """Each truncate and each end of a snapshot, in order."""
    is_end = (pl.col("_op") == "r") & pl.col("_snapshot").is_in(_LAST)
    return changes.filter((pl.col("_op") == "t") | is_end).sort("_lsn").to_dicts()


def _taken_by(
    rows: pl.DataFrame, key: Sequence[str], cut: dict[str, Any], earlier: dict[str, Any] | None
) -> pl.DataFrame:
    """A delete of each row that the truncate, or the snapshot without it, took away."""
    before = rows.filter(pl.col("_lsn") < cut["_lsn"], pl.col(CHANGED_AT) <= cut[CHANGED_AT])
    if earlier is not None:  # what that one left it saw, or came after it
        before = before.filter((pl.col("_lsn") >= earlier["_lsn"]) | (pl.col(CHANGED_AT) > earlier[CHANGED_AT]))
    there = before.unique(key, keep="last", maintain_order=True).filter(pl.col("_op") != "d")
    if cut["_op"] == "r":
        seen = rows.filter(pl.col("_lsn") == cut["_lsn"], pl.col("_op") == "r")
        there = there.join(seen, on=list(key), how="anti")
    nulls = [
        (pl.lit(cut[name]) if name in ("_lsn", CHANGED_AT, "_transaction", "_log_partition", "_log_offset")
         else pl.lit("d") if name == "_op" else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in rows.schema.items() if name not in key
    ]  # fmt: skip
    return there.with_columns(nulls).select(rows.columns)
