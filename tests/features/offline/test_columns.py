"""Tables whose columns do not fit their view: each is named before anything is computed, never a null."""

from __future__ import annotations

import itertools
import struct
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest
from tests.features.offline.facts import INSTANT

from headrace.features.offline.compute.local import LocalCompute
from headrace.features.offline.parts import join_in_pieces
from headrace.features.offline.point_in_time import join
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
)
from headrace.kernel.errors import ProjectError

HOUR = 3_600_000_000
THEN = datetime(2026, 1, 1, 12, tzinfo=UTC)
EARLIER = THEN - timedelta(minutes=1)
NUMBERS = {
    "int8": pl.Series([1, 2], dtype=pl.Int8),
    "int32": pl.Series([1, 2], dtype=pl.Int32),
    "int64": pl.Series([1, 2]),
    "uint32": pl.Series([1, 2], dtype=pl.UInt32),
}
TEXTS = {
    "text": pl.Series(["1", "b"]),
    "digits": pl.Series(["1", "2"]),
    "categories": pl.Series(["1", "b"], dtype=pl.Categorical),
    "enum": pl.Series(["1", "b"], dtype=pl.Enum(["1", "b"])),
}
OTHERS = {
    "uint64": pl.Series([1, 2**63], dtype=pl.UInt64),
    "floats": pl.Series([1.0, 2.0]),
    "booleans": pl.Series([True, False]),
    "dates": pl.Series([date(2026, 1, 1)] * 2),
    "instants": pl.Series([THEN] * 2),
    "bytes": pl.Series([b"1", b"2"]),
    "lists": pl.Series([[1], [2]]),
    "structs": pl.Series([{"a": 1}] * 2),
    "durations": pl.Series([timedelta(1)] * 2),
    "times of day": pl.Series([time(1)] * 2),
}
ALL = NUMBERS | TEXTS | OTHERS


def as_of(*features):
    return AsOfView("facts", ("key",), "facts", "at", features or (PlanField("x", "int64"),))


def windowed(column="x", dtype="int64", function="sum", of="int64"):
    aggregation = Aggregation("n", column, AggregateFunction(function), HOUR, HOUR, of)
    return WindowedView(
        "acts", ("key",), "acts", "acts", None, "at", (PlanField(column, dtype),), (aggregation,)
    )


def plan_of(view, dtype):
    refs = tuple(FeatureRef(view.name, field.name, field.dtype) for field in view.features)
    return FeaturePlan("m", (EntityKey("entity", "key", dtype),), (view,), refs)


def labels_of(keys, at=THEN):
    return pl.DataFrame({"key": keys, "event_timestamp": pl.Series([at] * len(keys))})


def rows_of(keys, **more):
    columns = {"key": keys, "at": pl.Series([EARLIER] * 2, dtype=INSTANT), "x": [5, 6]} | more
    return pl.DataFrame(columns).lazy()


def join_first(view, dtype, labels, rows):
    """The first feature of each label."""
    return join(labels, plan_of(view, dtype), lambda _: rows).to_series(-len(view.features)).to_list()


@pytest.mark.parametrize("dtype", ["int64", "string"])
@pytest.mark.parametrize("view", [as_of(), windowed()], ids=["as-of", "windowed"])
@pytest.mark.parametrize("kind", ALL)
def test_a_table_whose_key_is_of_another_type_than_its_entity_is_named(kind, view, dtype):
    fits = NUMBERS if dtype == "int64" else TEXTS
    keys = ALL[kind].cast(pl.Int64 if dtype == "int64" else pl.String) if kind in fits else [1, 2]
    labels = labels_of(keys if dtype == "int64" or kind in fits else ["1", "2"])
    if kind in fits:
        assert join_first(view, dtype, labels, rows_of(ALL[kind])) == [5, 6]
        return
    what = f"key 'key' of '{view.name}' (must be a whole number|is declared as {dtype}, but it is)"
    with pytest.raises(ProjectError, match=what) as raised:
        join(labels, plan_of(view, dtype), lambda _: rows_of(ALL[kind]))
    assert raised.value.where == f"feature view {view.name}"
    assert raised.value.remedy


@pytest.mark.parametrize("dtype", ["int64", "string"])
@pytest.mark.parametrize("kind", ALL)
def test_labels_whose_key_is_of_another_type_than_its_entity_are_named(kind, dtype):
    fits = NUMBERS | {"floats": OTHERS["floats"]} if dtype == "int64" else TEXTS
    table = rows_of([1, 2] if dtype == "int64" else ["1", "b"])
    for view in (as_of(), windowed()):
        if kind in fits:
            expected = [5, None if kind == "digits" else 6]
            assert join_first(view, dtype, labels_of(ALL[kind]), table) == expected
            continue
        what = f"'key', a key of '{view.name}', is declared as {dtype}, but the labels of model 'm'"
        with pytest.raises(ProjectError, match=what):
            join(labels_of(ALL[kind]), plan_of(view, dtype), lambda _: table)


@pytest.mark.parametrize(
    ("times", "sees"),
    [
        (pl.Series([EARLIER.replace(tzinfo=None)] * 2), 5),
        (pl.Series([EARLIER] * 2).dt.convert_time_zone("Asia/Tokyo"), 5),
        (pl.Series([EARLIER] * 2).cast(pl.Datetime("ns", "UTC")), 5),
        (pl.Series([THEN.date()] * 2), 5),
        (pl.Series([None] * 2), None),
        (pl.Series(["2026-01-01T00:00:00Z"] * 2), "String"),
        (pl.Series([1_760_000_000] * 2), "Int64"),
        (pl.Series([1.5] * 2), "Float64"),
        (pl.Series([time(1)] * 2), "Time"),
        (pl.Series([timedelta(1)] * 2), "Duration"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("view", [as_of(), windowed()], ids=["as-of", "windowed"])
def test_a_time_without_a_zone_is_utc_and_what_is_no_time_is_named(view, times, sees):
    rows = rows_of([1, 2], at=times)
    if not isinstance(sees, str):
        if view.name == "acts" and times.dtype == pl.Date:  # midnight is not within the last hour
            sees = None
        assert join_first(view, "int64", labels_of([1]), rows) == [sees]
        return
    what = f"timestamp_field 'at' of '{view.name}' must be a date or a time, but is {sees}"
    with pytest.raises(ProjectError, match=what):
        join(labels_of([1]), plan_of(view, "int64"), lambda _: rows)


@pytest.mark.parametrize("moment", ["2026-01-01", 5, 1.5, time(1), timedelta(1)])
def test_labels_whose_moment_is_no_time_are_named(moment):
    with pytest.raises(ProjectError, match="'event_timestamp' is declared as timestamp, but the labels"):
        join(labels_of([1], moment), plan_of(as_of(), "int64"), lambda _: rows_of([1, 2]))


@pytest.mark.parametrize(("column", "role"), [("key", "join key"), ("at", "timestamp_field"), ("x", "")])
@pytest.mark.parametrize("view", [as_of(), windowed()], ids=["as-of", "windowed"])
def test_a_missing_column_is_named(view, column, role):
    role = role or ("feature" if view.name == "facts" else "aggregated column")
    with pytest.raises(ProjectError, match=f"'{view.name}' has the {role} '{column}', a column that table"):
        join(labels_of([1]), plan_of(view, "int64"), lambda _: rows_of([1, 2]).drop(column))


@pytest.mark.parametrize("view", [as_of(), windowed()], ids=["as-of", "windowed"])
def test_a_text_that_is_not_a_number_is_named_with_its_field(view):
    rows = rows_of([1, 2], x=["7", "many"])
    what = f"{view.name}:x is declared as int64, but table {view.table} has the value 'many'"
    with pytest.raises(ProjectError, match=what):
        join(labels_of([1]), plan_of(view, "int64"), lambda _: rows)
    assert join_first(view, "int64", labels_of([1]), rows_of([1, 2], x=["7", "8"])) == [7]


def test_every_table_is_checked_before_anything_is_computed(tmp_path):
    second = AsOfView("second", ("key",), "wrong", "at", (PlanField("x", "int64"),))
    plan = FeaturePlan(
        "m",
        (EntityKey("entity", "key", "int64"),),
        (as_of(), second),
        (FeatureRef("facts", "x", "int64"), FeatureRef("second", "x", "int64")),
    )

    def fail(rows):
        raise AssertionError("rows were read")

    tables = {"facts": rows_of([1, 2]).map_batches(fail), "wrong": rows_of(["1", "2"])}
    pieces = join_in_pieces(
        labels_of([1]),
        plan,
        tables.__getitem__,
        folder=tmp_path,
        memory=1 << 30,
        compute=LocalCompute(tables.__getitem__),
        failed={},
    )
    for work in (lambda: join(labels_of([1]), plan, tables.__getitem__), lambda: next(pieces)):
        with pytest.raises(ProjectError, match="key 'key' of 'second' is declared as int64"):
            work()


def test_a_key_and_the_time_may_be_aggregated():
    rows = rows_of([1, 2])
    assert join_first(windowed("key", function="count"), "int64", labels_of([1, 3]), rows) == [1, 0]
    last = windowed("at", "timestamp", "last", "timestamp")
    assert join_first(last, "int64", labels_of([1, 3]), rows) == [EARLIER, None]


def test_decimals_and_dates_are_aggregated_as_numbers_and_midnights():
    rows = rows_of([1, 1], x=[Decimal("1.10"), Decimal("2.20")])
    assert join_first(windowed("x", "float64", "sum", "float64"), "int64", labels_of([1]), rows) == [1.1 + 2.2]
    rows = rows_of([1, 1], x=[date(2026, 1, 1), date(2025, 1, 1)])
    latest = windowed("x", "timestamp", "max", "timestamp")
    assert join_first(latest, "int64", labels_of([1]), rows) == [datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("dtype", ["float64", "list[float64]"])
def test_of_two_rows_that_differ_in_the_sign_of_zero_the_same_is_seen_in_any_order(dtype):
    is_list = dtype != "float64"
    view = as_of(PlanField("x", dtype), PlanField("y", "int64"))
    rows = [(-0.0, 9), (0.0, 1), (-0.0, 8), (0.0, 2)]
    for ordered in itertools.permutations(rows):
        values = [[x] if is_list else x for x, _ in ordered]
        table = pl.DataFrame({"key": 1, "at": EARLIER, "x": values, "y": [y for _, y in ordered]}).lazy()
        joined = join(labels_of([1]), plan_of(view, "int64"), lambda _, table=table: table)
        x, y = joined.row(0)[-2:]
        assert (struct.pack("d", x[0] if is_list else x), y) == (struct.pack("d", 0.0), 2)
