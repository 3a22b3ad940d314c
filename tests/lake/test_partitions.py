"""The numbers of partitions are those of Iceberg's transforms, as PyIceberg computes them for single values."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.transforms import parse_transform
from pyiceberg.types import DateType, IcebergType, IntegerType, LongType, StringType, TimestamptzType

from headrace.declare.partitioning import Partitioning, number_of, start_of
from headrace.lake.partitions import partition_numbers
from headrace.tables.partitions import partition_numbers as polars_numbers

INSTANTS = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
DATES = st.dates()
COLUMNS: list[tuple[st.SearchStrategy[object], pa.DataType, IcebergType, list[str]]] = [
    (INSTANTS, pa.timestamp("us", "UTC"), TimestamptzType(), ["hour", "day", "month"]),
    (DATES, pa.date32(), DateType(), ["day", "month", "bucket[16]"]),
    (st.integers(-(2**63), 2**63 - 1), pa.int64(), LongType(), ["bucket[7]", "bucket[64]"]),
    (st.integers(-(2**31), 2**31 - 1), pa.int32(), IntegerType(), ["bucket[64]"]),
    (st.text(), pa.string(), StringType(), ["bucket[64]"]),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column[1]))
def test_numbers_are_those_of_pyiceberg(
    column: tuple[st.SearchStrategy[object], pa.DataType, IcebergType, list[str]],
) -> None:
    values, arrow_type, iceberg_type, transforms = column

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(st.none() | values, min_size=1, max_size=20))
    def compare(drawn: list[object]) -> None:
        array = pa.array(drawn, arrow_type)
        stored = [physical(value) for value in drawn]
        for transform in transforms:
            expected = [parse_transform(transform).transform(iceberg_type)(value) for value in stored]
            assert partition_numbers(array, transform).to_pylist() == expected
            if transform.startswith("bucket"):
                partitioning = Partitioning("hash", "x", parts=int(transform[7:-1]))
            else:
                partitioning = Partitioning(transform, "x")  # type: ignore[arg-type]
            frame = pl.DataFrame({"x": pl.Series(array)})
            numbers = polars_numbers(partitioning, "x", frame.schema["x"])
            assert frame.select(numbers).to_series().to_list() == expected

    compare()


def physical(value: object) -> object:
    """The value as PyIceberg's transforms take it."""
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days
    return value


def micros(moment: datetime) -> int:
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


@pytest.mark.parametrize("grain", ["hour", "day", "month"])
@pytest.mark.parametrize(
    "moment", [datetime.min, datetime(1969, 12, 31, 23), datetime(2024, 2, 29), datetime.max]
)
def test_a_partition_begins_at_its_start(grain: str, moment: datetime) -> None:
    number = number_of(grain, moment)  # type: ignore[arg-type]
    begin = start_of(grain, number)  # type: ignore[arg-type]
    assert begin <= moment
    assert number_of(grain, begin) == number  # type: ignore[arg-type]


def test_a_value_that_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(TypeError, match="a value of type double cannot be a key"):
        partition_numbers(pa.array([1.5]), "bucket[4]")
