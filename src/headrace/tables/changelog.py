"""Reads the changelog of a database's table: its rows as of a moment, and their history.

The changes of a key are ordered by the database's log (`_lsn`), so that a change that arrives late, from
quarantine or a second delivery, takes its proper place. LSNs of two servers are not compared (tables.order).
Rows that a snapshot read (`r`) are an exception: the snapshot did not see transactions that were open at the
time, although their LSNs are lower (docs/decisions/0011-changes.md, 0018-eras.md).

Frames here have the columns that tables.read.read_input returns for a contract under @changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from headrace.declare.changes import CHANGED_AT, SNAPSHOT_ENDS
from headrace.tables.order import COLUMNS, ERA, POSITION, Era, find_eras, is_incremental, is_whole_read, place

__all__ = [
    "NO_CUTS",
    "Cuts",
    "add_moved_keys",
    "as_of",
    "find_cuts",
    "has_unsent",
    "history",
    "is_changelog",
    "is_moved",
    "latest_changes",
    "survivors",
]

_AT, _ROW, _READ, _PARTITION = "__at", "__row", "__read", "__partition"
_LIFE, _SOURCE, _SENT = "__life", "__source", "__sent"


class Cuts(NamedTuple):
    """The last changes that removed rows of many keys at once; -1 where there are none.

    Attributes:
        truncated: era and LSN of the last TRUNCATE, which removed every row whose last change is before it.
        read: era, LSN and time (microseconds since 1970) of the last complete snapshot. A row that is not in it
            and has not changed since was deleted, although the delete was never sent.
        open: log partition → era, LSN and time of the snapshot that the partition ends with; the changes that
            follow show whether that snapshot was complete.
    """

    truncated: tuple[int, int] = (-1, -1)
    read: tuple[int, int, int] = (-1, -1, -1)
    open: dict[int, tuple[int, int, int]] = {}  # noqa: RUF012  it is never changed

    def later(self, other: Cuts) -> Cuts:
        """The later of both cuts; `other` is from the changes that follow."""
        return Cuts(max(self.truncated, other.truncated), max(self.read, other.read), other.open)


NO_CUTS = Cuts()


def is_changelog(frame: pl.LazyFrame) -> bool:
    """Whether the frame has the columns of a changelog."""
    return {*COLUMNS, "_unchanged"} <= set(frame.collect_schema())


def as_of(changes: pl.LazyFrame, key: Sequence[str], moment: datetime) -> pl.DataFrame:
    """The table's rows as of a moment (with a time zone): one for each key, as its last change left it."""
    frame = changes.collect()
    eras = find_eras(frame, key)
    is_before = pl.col(CHANGED_AT) <= moment
    cuts = _latest(_cut_rows(place(frame, eras)).filter(is_before))
    return survivors(latest_changes(frame.filter(is_before), key, eras), cuts, eras)


def find_cuts(changes: pl.DataFrame, eras: Sequence[Era], before: Cuts | None = None) -> Cuts:
    """The last truncate and the last complete snapshot among these changes.

    Args:
        changes: all changes of a table; or those after the changes of `before`, without replays of reads.
        eras: as tables.order.find_eras returns them.
        before: the cuts of the changes before.
    """
    placed = place(changes, eras)
    open_ = {} if before is None else dict(before.open)
    cuts = _latest(_cut_rows(placed, None if before is None else open_))
    for row in _in_order(placed).unique(_PARTITION, keep="last", maintain_order=True).iter_rows(named=True):
        open_.pop(row[_PARTITION], None)
        if row["__whole"]:
            open_[row[_PARTITION]] = (row[ERA], row["_lsn"], row["__time"])
    return cuts._replace(open=open_)


def latest_changes(changes: pl.DataFrame, key: Sequence[str], eras: Sequence[Era]) -> pl.DataFrame:
    """The last change of each key, deletes included. Values that the database did not send with it come from
    earlier changes. Truncates, which have no key, are left out."""
    ordered = _order(place(changes, eras), key)
    last = ordered.unique(key, keep="last", maintain_order=True)
    incomplete = last.filter(has_unsent())
    if incomplete.is_empty():
        return last.select(changes.columns)
    needed = ordered
    if needed.filter(is_moved()).is_empty():
        needed = ordered.join(incomplete.select(key), on=list(key), how="semi", maintain_order="left")
    filled = _fill_unsent(needed, key).join(incomplete.select(_ROW), on=_ROW, how="semi")
    return pl.concat([last.filter(~has_unsent()), filled]).sort(_ROW).select(changes.columns)


def survivors(rows: pl.DataFrame, cuts: Cuts, eras: Sequence[Era]) -> pl.DataFrame:
    """Filters the last changes of keys: keeps those whose row still exists.

    The time of a row of an incremental snapshot is when Debezium read it, which may be much later.
    """
    era, lsn, time = pl.col(ERA), pl.col("_lsn"), pl.col(CHANGED_AT).to_physical()
    truncate, (read_era, read_lsn, read_at) = cuts.truncated, cuts.read
    truncated = (era < truncate[0]) | ((era == truncate[0]) & (lsn < truncate[1]))
    unread = (era < read_era) | ((era == read_era) & (lsn < read_lsn) & ((time <= read_at) | is_incremental()))
    return place(rows, eras).filter((pl.col("_op") != "d") & ~truncated & ~unread).select(rows.columns)


def history(changes: pl.LazyFrame, key: Sequence[str]) -> pl.LazyFrame:
    """Every state of every row, for joins as of a time: one for each key and time. A deleted row
    has only nulls.

    Values that the database did not send are filled from the change before. A truncate, or the end of a
    snapshot that lacks rows, becomes a delete of each row that it removed.
    """
    frame = changes.collect()
    placed = place(frame, find_eras(frame, key))
    ordered = _fill_unsent(_order(placed, key), key)
    cuts = _cut_rows(placed).to_dicts()
    deletes = [
        _deletes_by_cut(ordered, key, cut, before) for before, cut in zip([None, *cuts], cuts, strict=False)
    ]
    whole = pl.concat([ordered, *deletes]) if deletes else ordered
    return (
        whole.sort(_ROW, maintain_order=True)
        # A change takes effect no later than the change after it.
        .with_columns(pl.col(CHANGED_AT).cum_min(reverse=True).over(key))
        .unique([*key, CHANGED_AT], keep="last", maintain_order=True)
        .select(frame.columns)
        .lazy()
    )


def _order(placed: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The changes that have a key, in order: `__row` is their number, `__at` the LSN they are ordered by."""
    rows = placed.drop_nulls(list(key)).sort(_PARTITION, POSITION).with_row_index(_READ)
    log = [*key, ERA]
    streamed = pl.when(pl.col("_op") != "r").then("_lsn")
    known = streamed.cum_max().forward_fill().shift(1).over([*log, _PARTITION]).fill_null(-1)
    snapshot_columns: dict[str, Any] = {"lsn": "_lsn", "read": CHANGED_AT, "incremental": is_incremental()}
    reads = rows.with_columns(known=known).filter(pl.col("_op") == "r")
    reads = reads.select(*log, _READ, _PARTITION, POSITION, "known", **snapshot_columns)
    others = rows.filter(pl.col("_op") != "r").select(*log, _PARTITION, POSITION, "_lsn", CHANGED_AT)
    # A change that the snapshot did not see, although its LSN is lower, comes after the snapshot's read.
    # Debezium puts a row of an incremental snapshot in its right place among the row's changes: its time does
    # not count.
    later = (
        pl.when(pl.col("incremental") & (pl.col(_PARTITION) == pl.col(f"{_PARTITION}_right")))
        .then((pl.col(f"{POSITION}_right") > pl.col(POSITION)) & (pl.col("_lsn") > pl.col("known")))
        .otherwise(pl.col(CHANGED_AT) > pl.col("read"))
    )
    unseen = (
        reads.join(others, on=log)
        .filter((pl.col("_lsn") < pl.col("lsn")) & later)
        .group_by(_READ)
        .agg(pl.col("_lsn").min().alias(_AT))
    )
    rows = rows.join(unseen, on=_READ, how="left").with_columns(pl.coalesce(_AT, "_lsn"))
    order = [ERA, _AT, pl.col("_op") != "r", _PARTITION, POSITION]
    return rows.drop(_READ).sort(order).with_row_index(_ROW)


def has_unsent() -> pl.Expr:
    """Whether the database did not send a value with a change."""
    return (pl.col("_unchanged").list.len() > 0).fill_null(False)


def is_moved() -> pl.Expr:
    """Whether a change is the second half of an update of a key: the row came from another key.

    Debezium sends such an update as a delete and an insert with one LSN. Another insert has all its values.
    """
    return (pl.col("_op") == "c") & has_unsent()


def add_moved_keys(keys: pl.DataFrame, changes: pl.LazyFrame) -> pl.DataFrame:
    """The keys, and those that rows with unsent values moved to or from, also in several steps.

    Args:
        keys: the keys, without null: a column for each column of the key.
        changes: all changes of the table.
    """
    key = keys.columns
    moved = changes.filter(is_moved()).select(*key, "_lsn").collect()
    if moved.is_empty():
        return keys
    deletes = changes.filter(pl.col("_op") == "d").join(moved.select("_lsn").lazy(), on="_lsn", how="semi")
    former = [f"{name}__former" for name in key]
    steps = deletes.select("_lsn", pl.col(key).name.suffix("__former")).collect().join(moved, on="_lsn")
    count = -1
    while count != len(keys):
        count = len(keys)
        before = steps.join(keys, on=key, how="semi").select(former).rename(dict(zip(former, key, strict=True)))
        after = steps.join(keys, left_on=former, right_on=key, how="semi").select(key)
        keys = pl.concat([keys, before, after]).unique()
    return keys


def _fill_unsent(ordered: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Fills unsent values from the changes before; those that no change has stay null, and in `_unchanged`.

    The former values of a row that came from another key are those that the row had there.
    """
    names = ordered["_unchanged"].drop_nulls().explode().drop_nulls().unique().sort().to_list()
    frame = ordered.join(_find_sources(ordered, key), on=_ROW, how="left", maintain_order="left").with_columns(
        is_moved().cum_sum().over(key, order_by=_ROW).alias(_LIFE)
    )
    for name in names:
        is_unsent = pl.col("_unchanged").list.contains(name).fill_null(False)
        filled = pl.col(_SENT).forward_fill().over([*key, _LIFE], order_by=_ROW)
        frame = frame.with_columns(pl.when(~is_unsent).then(pl.struct(name)).alias(_SENT))
        while True:  # once for each key that a row has moved through
            known = frame.select(_ROW, filled.alias("__carried")).drop_nulls()
            moved = frame.filter(pl.col(_SENT).is_null() & pl.col(_SOURCE).is_not_null()).select(_ROW, _SOURCE)
            carried = moved.join(known.rename({_ROW: _SOURCE}), on=_SOURCE).drop(_SOURCE)
            if carried.is_empty():
                break
            frame = frame.join(carried, on=_ROW, how="left", maintain_order="left")
            frame = frame.with_columns(pl.coalesce(_SENT, "__carried").alias(_SENT)).drop("__carried")
        rest = pl.col("_unchanged").list.set_difference([name])
        is_filled = is_unsent & pl.col("__filled").is_not_null()
        frame = (
            frame.with_columns(filled.alias("__filled"))
            .with_columns(
                pl.when(is_filled).then(pl.col("__filled").struct.field(name)).otherwise(name).alias(name),
                pl.when(is_filled)
                .then(pl.when(rest.list.len() > 0).then(rest))
                .otherwise("_unchanged")
                .alias("_unchanged"),
            )
            .drop("__filled", _SENT)
        )
    return frame.drop(_SOURCE, _LIFE)


def _find_sources(ordered: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows (`__row`) that came from another key, and the rows of that key before the move (`__source`)."""
    log = [ERA, "_lsn"]
    moved = ordered.filter(is_moved()).select(_ROW, *log)
    before = pl.col(_ROW).shift(1).over(key, order_by=_ROW).alias(_SOURCE)
    deletes = (
        ordered.with_columns(before)
        .filter(pl.col("_op") == "d")
        .join(moved, on=log, how="semi")
        .unique([*log, *key], keep="first", maintain_order=True)
        .unique(log, keep="none")
    )
    return moved.join(deletes.select(*log, _SOURCE), on=log).select(_ROW, _SOURCE).drop_nulls()


def _in_order(placed: pl.DataFrame, *, replays: bool = False) -> pl.DataFrame:
    """The changes in the order in which they arrived on the log."""
    return (
        placed.filter(replays | pl.col("_first_offset").is_null())
        .sort(_PARTITION, POSITION)
        .with_columns(pl.col(CHANGED_AT).to_physical().alias("__time"), is_whole_read().alias("__whole"))
    )


def _cut_rows(placed: pl.DataFrame, open_: Mapping[int, tuple[int, int, int]] | None = None) -> pl.DataFrame:
    """Each truncate and each complete snapshot, in order: one row of each.

    The row that is marked as a snapshot's last is its end. If the mark is another one (`first`) or the row was
    refused, a change that follows shows the end, because Debezium streams no change before the end.

    Args:
        placed: all changes, or the changes that follow earlier ones.
        open_: `Cuts.open` of the earlier changes; None for all changes.
    """
    arrived = _in_order(placed, replays=open_ is None)
    is_end = is_whole_read() & pl.col("_snapshot").is_in(SNAPSHOT_ENDS)
    followed = pl.col("__whole") & ~pl.col("__whole").shift(-1).over(_PARTITION).fill_null(True)
    cuts = [placed.filter((pl.col("_op") == "t") | is_end), arrived.filter(followed).select(placed.columns)]
    first = arrived.unique(_PARTITION, keep="first", maintain_order=True).filter(~pl.col("__whole"))
    for partition, (era, lsn, time) in (open_ or {}).items():
        end = {"_op": "r", ERA: era, "_lsn": lsn, CHANGED_AT: time}
        values = [pl.lit(value).cast(placed.schema[name]).alias(name) for name, value in end.items()]
        row = first.filter(pl.col(_PARTITION) == partition).select(placed.columns)
        cuts.append(row.with_columns(values))
    order = [ERA, "_lsn", CHANGED_AT]
    return pl.concat(cuts).sort(order).unique([*order, "_op"], keep="first", maintain_order=True)


def _latest(cuts: pl.DataFrame) -> Cuts:
    """The last truncate and the last snapshot among ordered cuts."""
    numbers = cuts.select("_op", ERA, "_lsn", pl.col(CHANGED_AT).to_physical()).rows()
    truncated = [(era, lsn) for op, era, lsn, _ in numbers if op == "t"]
    read = [(era, lsn, time) for op, era, lsn, time in numbers if op == "r"]
    return Cuts(max(truncated, default=(-1, -1)), max(read, default=(-1, -1, -1)))


def _deletes_by_cut(
    rows: pl.DataFrame, key: Sequence[str], cut: dict[str, Any], earlier: dict[str, Any] | None
) -> pl.DataFrame:
    """A delete for each row that the cut (truncate or snapshot) removed, in the place of its last change."""
    era, lsn, time = pl.col(ERA), pl.col("_lsn"), pl.col(CHANGED_AT)
    earlier_by_time = (time <= cut[CHANGED_AT]) | is_incremental() | (cut["_op"] == "t")
    before = rows.filter((era < cut[ERA]) | ((era == cut[ERA]) & (lsn < cut["_lsn"]) & earlier_by_time))
    if earlier is not None:  # the earlier cut already deleted the other rows
        remains = (era == earlier[ERA]) & ((lsn >= earlier["_lsn"]) | (time > earlier[CHANGED_AT]))
        before = before.filter((era > earlier[ERA]) | remains)
    existing = before.unique(key, keep="last", maintain_order=True).filter(pl.col("_op") != "d")
    if cut["_op"] == "r":
        same = (era == cut[ERA]) & (lsn == cut["_lsn"]) & (time == cut[CHANGED_AT])
        existing = existing.join(rows.filter(is_whole_read() & same), on=list(key), how="anti")
    of_cut = (ERA, "_lsn", CHANGED_AT, "_transaction", "_log_partition", "_log_offset", _PARTITION, POSITION)
    values = {name: pl.lit(cut[name]) for name in of_cut}
    values |= {_ROW: pl.col(_ROW), "_op": pl.lit("d")}
    columns = [
        values.get(name, pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in rows.schema.items()
        if name not in key
    ]
    return existing.with_columns(columns).select(rows.columns)
