"""The type of a CSV column: an oracle in plain Python decides, value by value, what a cell may be read as."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.kernel.errors import ProjectError
from headrace.tables.csv_file import CsvFile, check_csv
from headrace.tables.csv_types import as_type, check_types, detect_kinds, type_of_kinds

TWO_DIGITS = st.integers(0, 61).map("{:02}".format)
TIME = st.builds(
    "{}{}:{}{}".format, st.sampled_from("T "), TWO_DIGITS, TWO_DIGITS, st.sampled_from(["", ":07", ":59.5"])
)
DAY = st.sampled_from(["2024-02-29", "2023-02-29", "0001-01-01", "9999-12-31", "0000-01-01", "03/04/2026"])
CELLS = {
    "numbers": st.one_of(
        st.integers(-(2**65), 2**65).map(str),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.decimals(allow_nan=False, allow_infinity=False).map(str),
        st.sampled_from(["0", "-0", "0870", "+1", "1.", ".5", "1.10", "00.5", "1e5", "2e3", "1e400", "NaN"]),
        st.sampled_from(["", " "]),
    ),
    "times": st.one_of(
        DAY,
        st.builds(str.__add__, DAY, TIME),
        st.builds("{}{}{}".format, DAY, TIME, st.sampled_from(["Z", "+00:00", "-0130", "+0260", "z"])),
        st.sampled_from(["", " "]),
    ),
    "words": st.sampled_from(["true", "false", "True", "1", "", " ", "yes"]),
}
COLUMN = st.sampled_from(sorted(CELLS)).flatmap(lambda name: st.lists(CELLS[name], max_size=3))
ONE_FOLDER = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, cells: list[str]) -> CsvFile:
    path.write_text("\n".join(["n,cell", *(f"{n},{cell}" for n, cell in enumerate(cells)), ""]))
    return check_csv(path, "utf-8")


def as_integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"0|-?[1-9]\d*", text) and -(2**63) <= int(text) < 2**63 else None


def as_float(text: str) -> float | None:
    """The 64-bit number whose shortest spelling means the same."""
    plain = re.fullmatch(r"0|-?[1-9]\d{0,14}|-?(0|[1-9]\d*)\.\d+|-?[1-9](\.\d+)?e[+-]?\d+", text)
    if text == "NaN" or not plain:
        return float("nan") if text == "NaN" else None
    return float(text) if Decimal(repr(float(text))) == Decimal(text) else None


def as_day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None


def as_time(text: str, zone: str) -> datetime | None:
    shape = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
    try:
        if not re.fullmatch(shape + zone, text):
            return None
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if zone else moment
    except (ValueError, OverflowError):
        return None


def spell(value: Any) -> Any:
    """A float as text, so that NaN is itself and -0.0 is not 0.0."""
    return repr(value) if isinstance(value, float) else value


READERS: list[tuple[pl.DataType, Any]] = [
    (pl.Boolean(), lambda text: {"true": True, "false": False}.get(text)),
    (pl.Int64(), as_integer),
    (pl.Float64(), as_float),
    (pl.Date(), as_day),
    (pl.Datetime("us"), lambda text: as_time(text, "")),
    (pl.Datetime("us", "UTC"), lambda text: as_time(text, r"(Z|[+-]\d\d:?[0-5]\d)")),
]


def expect_column(cells: list[str]) -> tuple[pl.DataType, list[Any]]:
    """The type of a column and its values, by the rule in the guide."""
    filled = [cell for cell in cells if cell.strip()]
    for dtype, reader in READERS:
        values = [reader(cell) if cell.strip() else None for cell in cells]
        if not filled or any(value is None and cell.strip() for value, cell in zip(values, cells, strict=True)):
            continue
        if dtype == pl.Float64 and any("e" in c for c in filled) and not any("." in c for c in filled):
            continue
        return dtype, values
    return pl.String(), [cell or None for cell in cells]


@ONE_FOLDER
@given(cells=COLUMN, earlier=st.integers(0, 1))
@example(cells=["0870", "00123"], earlier=0)
@example(cells=["12345678901234567890.12345"], earlier=0)
@example(cells=["1.5", "12345678901234567890"], earlier=1)
@example(cells=["2024-02-29T10:00", "2024-02-29T10:00Z"], earlier=0)
@example(cells=["9999-12-31T23:59:59-01:00"], earlier=0)
@example(cells=["29.85", " ", "108.15"], earlier=0)
@example(cells=[" "], earlier=0)
@example(cells=["0.30000000000000004", "1e-07", "100000000000000000000.0"], earlier=0)
def test_a_column_has_the_type_that_all_its_cells_are_written_as(
    tmp_path: Path, cells: list[str], earlier: int
) -> None:
    # What the first rows look like must not decide: with `earlier` they are all empty.
    file = write(tmp_path / "x.csv", [""] * (1_500 * earlier) + cells)
    dtype = type_of_kinds([detect_kinds(file, ["cell"])["cell"]])
    values = file.scan().select(as_type("cell", dtype)).collect()["cell"][1_500 * earlier :]
    type_wanted, values_wanted = expect_column(cells)
    assert dtype == type_wanted
    assert [spell(value) for value in values] == [spell(value) for value in values_wanted]


def test_a_late_cell_counts_like_an_early_one(tmp_path: Path) -> None:
    for cells, dtype in (
        (["870"] * 20_000 + ["AB12"], pl.String()),
        (["870"] * 20_000 + ["0.5"], pl.Float64()),
        (["2024-01-01"] * 20_000 + ["2024-01-01 10:00"], pl.String()),
    ):
        file = write(tmp_path / "x.csv", cells)
        assert type_of_kinds([detect_kinds(file, ["cell"])["cell"]]) == dtype


def test_files_agree_on_a_type_that_holds_all_their_cells(tmp_path: Path) -> None:
    def kind(*cells: str) -> Any:
        return detect_kinds(write(tmp_path / "x.csv", list(cells)), ["cell"])["cell"]

    assert type_of_kinds([kind("1"), kind("2.5"), kind()]) == pl.Float64
    assert type_of_kinds([kind("1"), kind("", "")]) == pl.Int64
    assert type_of_kinds([kind("1"), kind("x")]) == pl.String
    assert type_of_kinds([kind("9007199254740993"), kind("2.5")]) == pl.String
    assert type_of_kinds([kind("2024-01-01"), kind("2024-01-01 10:00")]) == pl.String
    assert type_of_kinds([kind(), kind("")]) == pl.String


@pytest.mark.parametrize(
    ("dtype", "cells", "values"),
    [
        (pl.String(), ["0870", ""], ["0870", None]),
        (pl.Int64(), ["0870", "+5", ""], [870, 5, None]),
        (pl.Float64(), ["12345678901234567890", "1e5", "inf"], [12345678901234567890.0, 1e5, float("inf")]),
        (pl.Decimal(22, 2), ["12345678901234567890.10"], [Decimal("12345678901234567890.10")]),
        (pl.Decimal(4, 2), ["1.500", "+07.1"], [Decimal("1.50"), Decimal("7.10")]),
        (pl.Decimal(5, 0), ["12"], [Decimal("12")]),
        (pl.Boolean(), ["TRUE", "False"], [True, False]),
        (
            pl.Datetime("us", "UTC"),
            ["2024-01-01T10:00:00", "2024-01-01T10:00:00+02:00"],
            [datetime(2024, 1, 1, 10, tzinfo=UTC), datetime(2024, 1, 1, 8, tzinfo=UTC)],
        ),
    ],
)
def test_a_declared_type_is_used(
    tmp_path: Path, dtype: pl.DataType, cells: list[str], values: list[Any]
) -> None:
    file = write(tmp_path / "x.csv", cells)
    check_types(file, {"cell": dtype})
    read = file.scan().select(as_type("cell", dtype)).collect()["cell"]
    assert (read.dtype, read.to_list()) == (dtype, values)


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        (pl.Int64(), "9223372036854775808"),
        (pl.Int8(), "128"),
        (pl.Int64(), "1.0"),
        (pl.Float64(), "1,5"),
        (pl.Float64(), "1e400"),
        (pl.Decimal(10, 2), "1.256"),
        (pl.Decimal(4, 2), "123.45"),
        (pl.Boolean(), "yes"),
        (pl.Date(), "03/04/2026"),
        (pl.Date(), "2024-02-30"),
        (pl.Datetime("us"), "2024-01-01T10:00:00Z"),
        (pl.Datetime("us", "UTC"), "2024-01-01"),
    ],
)
def test_a_cell_that_is_not_of_the_declared_type_is_named_with_its_row(
    tmp_path: Path, dtype: pl.DataType, wrong: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'n,cell\n1,\n\n"two\nlines",\n3,"{wrong}"\n4,"{wrong}"\n')
    with pytest.raises(ProjectError, match="column 'cell' is declared as") as refused:
        check_types(check_csv(path, "utf-8"), {"cell": dtype})
    assert repr(wrong) in str(refused.value.what)
    assert refused.value.where == f"{path}, row 5"
