"""A table of the lake with a random history, and what each of its snapshots must hold.

The expected rows are kept as plain Python values, beside the operations that write them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import attrs
import polars as pl
import pyarrow as pa

from headrace import lake
from headrace.declare.partitioning import number_of
from headrace.lake import Lake, LakeTable
from headrace.lake.schema import PartitionBy

__all__ = ["FILTERS", "History", "Version", "write_history"]

Rows = list[dict[str, Any]]

_START = datetime(2024, 1, 1, tzinfo=UTC)
_STAMP = pa.timestamp("us", "UTC")
_TYPES: dict[str, pa.DataType] = {
    "at": _STAMP,
    "good": pa.bool_(),
    "key": pa.int64(),
    "name": pa.string(),
    "whole": pa.int32(),
    "real": pa.float32(),
    "day": pa.date32(),
    "clock": pa.time64("us"),
    "raw": pa.binary(),
    "amount": pa.decimal128(9, 2),
    "words": pa.list_(pa.string()),
    "place": pa.struct([("x", pa.int32()), ("y", pa.string())]),
    "len": pa.int64(),  # also the name of a statistic
}
_WIDER = {pa.int32(): pa.int64(), pa.float32(): pa.float64()}
_PARTITIONS: list[PartitionBy] = [
    [],
    [("at", "day")],
    [("good", "identity"), ("at", "day")],
    [("name", "identity"), ("whole", "identity")],
    [("day", "day"), ("key", "identity")],
]
_TEXTS = ["", "a", "née", "\U0001f600" * 20, "z" * 30, "\ud7ff" * 20]
_AT_ONCE = timedelta(microseconds=-1)

FILTERS: dict[str, Callable[[], pl.Expr]] = {
    "key": lambda: pl.col("key").is_between(20, 40),
    "key_in": lambda: pl.col("key").is_in([3, 33, 63]),
    "at": lambda: pl.col("at") >= _START + timedelta(days=2),
    "at_window": lambda: pl.col("at").is_between(_START + timedelta(hours=30), _START + timedelta(hours=50)),
    "good": lambda: pl.col("good"),
    "bad": lambda: ~pl.col("good"),
    "name": lambda: pl.col("name") == "née",
    "name_after": lambda: pl.col("name") > "b",
    "no_name": lambda: pl.col("name").is_null(),
    "long_name": lambda: pl.col("name") == "z" * 30,
    "whole": lambda: pl.col("whole") > 2**20,
    "negative": lambda: pl.col("whole") < 0,
    "real": lambda: pl.col("real") > 0,
    "day": lambda: pl.col("day") == date(2024, 1, 2),
    "clock": lambda: pl.col("clock") < time(12),
    "raw": lambda: pl.col("raw") == b"\xff",
    "amount": lambda: pl.col("amount") >= Decimal("1.00"),
    "len": lambda: pl.col("len") > 0,
    "nothing": lambda: pl.col("key") < 0,
}


@attrs.define
class Version:
    """What a snapshot must hold: the columns' types, and the rows."""

    types: dict[str, pa.DataType]
    rows: Rows

    def frame(self) -> pl.DataFrame:
        """The rows as a frame, in order of their keys."""
        schema = pl.Schema(pa.schema(list(self.types.items())))
        rows = [{name: row.get(name) for name in self.types} for row in self.rows]
        return pl.DataFrame(rows, schema=schema).sort("key")


class History:
    """Writes a table by random operations, and remembers what each snapshot must hold."""

    def __init__(self, opened: Lake, seed: int) -> None:
        self.lake = opened
        self.random = random.Random(seed)
        self.partition_by = self.random.choice(_PARTITIONS)
        needed = {"at", "key", *(column for column, _ in self.partition_by)}
        others = [name for name in _TYPES if name not in needed]
        chosen = self.random.sample(others, self.random.randint(2, 6))
        types = {name: kind for name, kind in _TYPES.items() if name in {*needed, *chosen}}
        self.now = Version(types, [])
        self.versions: dict[int, Version] = {}
        self.tags: dict[str, int] = {}
        self.keys = iter(range(10**9))
        self.table: LakeTable = opened.ensure("events", pa.schema(list(types.items())), self.partition_by)

    def run(self, steps: int) -> None:
        """Runs random operations."""
        operations = [self.append] * 4 + [
            self.add_column,
            self.widen,
            self.replace_columns,
            self.overwrite_days,
            self.overwrite,
            self.tag,
            self.maintain,
            self.roll_back,
            self.append_nothing,
        ]
        self.append()
        for _ in range(steps):
            self.random.choice(operations)()

    def append(self) -> None:
        """Appends rows, of which some lack columns."""
        rows = list(self._rows(self.random.randint(1, 30)))
        names = self._some_names()
        partial = [{name: value for name, value in row.items() if name in names} for row in rows]
        snapshot = self.table.append(self._arrow(partial, names))
        self._record(snapshot.id, self.now.rows + partial)

    def append_nothing(self) -> None:
        """Commits without rows."""
        self._record(self.table.append(self._arrow([], self._some_names())).id, self.now.rows)

    def add_column(self) -> None:
        """Adds a column, or a field of the struct."""
        types = dict(self.now.types)
        if "place" in types and self.random.random() < 0.5:
            types["place"] = pa.struct([*types["place"], (f"z{len(types['place'])}", pa.int64())])
            rows = [self._with_field(row, types["place"][-1].name) for row in self.now.rows]
        else:
            missing = [name for name in _TYPES if name not in types]
            if not missing:
                return
            name = self.random.choice(missing)
            types[name], rows = _TYPES[name], self.now.rows
        self.lake.ensure("events", pa.schema(list(types.items())))
        self.now = Version(types, rows)

    def widen(self) -> None:
        """Widens whole or real numbers."""
        types = {name: _WIDER.get(kind, kind) for name, kind in self.now.types.items()}
        self.lake.ensure("events", pa.schema(list(types.items())))
        self.now = Version(types, self.now.rows)

    def replace_columns(self) -> None:
        """Replaces a column by another one of its name, and removes one; then some rows are appended."""
        fixed = {"at", "key", *(column for column, _ in self.partition_by)}
        free = [name for name in self.now.types if name not in fixed]
        if len(free) < 2:
            return
        replaced, removed = self.random.sample(free, 2)
        kind = self.now.types[replaced]
        types = {n: t for n, t in self.now.types.items() if n not in (replaced, removed)}
        types[replaced] = pa.string() if kind != pa.string() else pa.int64()
        self.lake.ensure("events", pa.schema(list(types.items())), exact=True)
        rows = [{n: v for n, v in row.items() if n not in (replaced, removed)} for row in self.now.rows]
        self.now = Version(types, rows)
        self.append()

    def overwrite_days(self) -> None:
        """Replaces the rows of a day."""
        if ("at", "day") not in self.partition_by:
            return
        day = (_START + timedelta(days=self.random.randint(0, 3))).date()
        rows = [row for row in self._rows(20) if row["at"].date() == day]
        names = list(self.now.types)
        snapshot = self.table.overwrite(
            self._arrow(rows, names), partitions=(("at", "day"), [number_of("day", day)])
        )
        kept = [row for row in self.now.rows if row.get("at") is None or row["at"].date() != day]
        self._record(snapshot.id, kept + rows)

    def overwrite(self) -> None:
        """Replaces all rows, sometimes by none."""
        rows = list(self._rows(self.random.choice([0, 10])))
        self._record(self.table.overwrite(self._arrow(rows, list(self.now.types))).id, rows)

    def tag(self) -> None:
        """Tags a snapshot that can be read."""
        snapshot = self.random.choice(self.table.snapshots()).id
        name = f"tag{len(self.tags)}"
        self.table.create_tag(name, snapshot)
        self.tags[name] = snapshot

    def maintain(self) -> None:
        """Compacts files, expires snapshots and removes files, all at once."""
        lake.maintain(self.table, older_than=_AT_ONCE, grace=_AT_ONCE, longest_write=_AT_ONCE)
        current = self.table.current_snapshot()
        assert current is not None
        if current.id not in self.versions:
            self._record(current.id, self.now.rows)

    def roll_back(self) -> None:
        """Makes a former snapshot current again."""
        snapshot = self.random.choice(self.table.snapshots()).id
        self.table.rollback_to_snapshot(snapshot)
        self.now = attrs.evolve(self.versions[snapshot])

    def _record(self, snapshot: int, rows: Rows) -> None:
        self.now = Version(self.now.types, rows)
        self.versions[snapshot] = self.now

    def _some_names(self) -> list[str]:
        names = {name for name in self.now.types if self.random.random() < 0.8}
        return [name for name in self.now.types if name in {"key", *names}]

    def _arrow(self, rows: Rows, names: list[str]) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=pa.schema([(name, self.now.types[name]) for name in names]))

    def _rows(self, count: int) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            key = next(self.keys)
            yield {name: self._value(name, kind, key) for name, kind in self.now.types.items()}

    def _value(self, name: str, kind: pa.DataType, key: int) -> Any:
        rng = self.random
        if name == "key":
            return key
        if name != "at" and rng.random() < 0.2:
            return None
        if pa.types.is_struct(kind):
            return {field.name: self._value(field.name, field.type, key) for field in kind}
        if pa.types.is_list(kind):
            return [rng.choice([None, *string.ascii_letters]) for _ in range(rng.randint(0, 3))]
        if pa.types.is_floating(kind):
            return rng.choice([float("nan"), float("inf"), -0.0, rng.randint(-9, 9) / 4])
        values: dict[pa.DataType, Callable[[], Any]] = {
            _STAMP: lambda: _START + timedelta(seconds=rng.randint(-86_400, 4 * 86_400)),
            pa.bool_(): lambda: rng.random() < 0.5,
            pa.int32(): lambda: rng.randint(-(2**31), 2**31 - 1),
            pa.int64(): lambda: rng.choice([rng.randint(-(2**63), 2**63 - 1), rng.randint(-9, 9)]),
            pa.string(): lambda: rng.choice(_TEXTS),
            pa.date32(): lambda: date(2024, 1, rng.randint(1, 4)),
            pa.time64("us"): lambda: time(rng.randint(0, 23), rng.randint(0, 59), 1, rng.randint(0, 999_999)),
            pa.binary(): lambda: rng.choice([b"", b"\xff", b"\xff" * 40]),
            pa.decimal128(9, 2): lambda: Decimal(rng.randint(-999, 999)) / 100,
        }
        return values[kind]()

    def _with_field(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        place = row.get("place")
        return row if place is None else {**row, "place": {**place, name: None}}


def write_history(opened: Lake, seed: int, steps: int = 12) -> History:
    """A table `events` with a random history."""
    history = History(opened, seed)
    history.run(steps)
    return history
