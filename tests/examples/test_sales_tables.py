"""The tables of the sales against their definitions in plain Python: what is known when a week begins."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.examples.example import import_package_module

WEEK = timedelta(weeks=1)
FIRST = date(2023, 1, 6)
WEEKS = 120
Sales = dict[tuple[int, int, date], float]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return import_package_module("sales", "sales.tables")


@pytest.fixture(scope="module")
def sales() -> Sales:
    """Sales with gaps: a department that opens late, one that closes early, weeks without a row, returns."""
    rng = np.random.default_rng(3)
    spans = {(1, 7): (0, WEEKS), (1, 8): (30, WEEKS), (2, 7): (0, 90), (2, 9): (100, 101)}
    rows: Sales = {}
    for (store, dept), (begin, end) in spans.items():
        for n in range(begin, end):
            if rng.random() < 0.9 or n == begin:
                rows[store, dept, FIRST + n * WEEK] = round(float(rng.normal(100, 80)), 2)
    rows[1, 7, FIRST + (WEEKS - 1) * WEEK] = -5.0
    return rows


def to_frame(tables: ModuleType, sales: Sales) -> pl.LazyFrame:
    """The rows in the columns of the file, in no order, through the table weekly_sales."""
    rows = [
        {"Store": store, "Dept": dept, "Date": week, "Weekly_Sales": value, "IsHoliday": False}
        for (store, dept, week), value in sales.items()
    ]
    frame = pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1)
    labels: pl.DataFrame = tables.weekly_sales(frame.lazy()).collect()
    return labels.lazy()


def begin_of(week: date) -> datetime:
    """The Saturday before the Friday that names the week."""
    return datetime.combine(week - timedelta(days=6), datetime.min.time(), UTC)


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def known_when(sales: Sales, store: int, dept: int, week: date) -> dict[str, float | None]:
    """The definition: the sales of a department in the weeks before `week`."""

    def earlier(weeks: int) -> float | None:
        assert weeks >= 1
        return sales.get((store, dept, week - weeks * WEEK))

    return {
        **{f"lag_{n}": earlier(n) for n in (1, 2, 4, 8, 52)},
        **{f"mean_{n}": mean([earlier(k) for k in range(1, n + 1)]) for n in (4, 13)},
        "mean_4_last_year": mean([earlier(52 + k) for k in range(1, 5)]),
    }


def equals(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    return first == pytest.approx(second, rel=1e-9, abs=1e-9)


def test_a_label_has_the_moment_at_which_its_week_begins(tables: ModuleType, sales: Sales) -> None:
    rows = to_frame(tables, sales).collect()
    assert {(r["store"], r["dept"], r["week"]): r["sales"] for r in rows.iter_rows(named=True)} == sales
    assert all(row["event_timestamp"] == begin_of(row["week"]) for row in rows.iter_rows(named=True))


def test_every_label_finds_the_lags_and_means_of_the_weeks_before_it(tables: ModuleType, sales: Sales) -> None:
    history = tables.sales_history(to_frame(tables, sales)).collect()
    tables.SalesHistory.validate(history.select(tables.SalesHistory.column_names()))
    rows = {(r["store"], r["dept"], r["event_timestamp"]): r for r in history.iter_rows(named=True)}
    compared = 0
    for store, dept, week in sales:
        row = rows.get((store, dept, begin_of(week)))
        if row is None:  # the first week of a department: nothing is known of it
            assert week == min(w for s, d, w in sales if (s, d) == (store, dept))
            continue
        for name, value in known_when(sales, store, dept, week).items():
            assert equals(row[name], value), (store, dept, week, name, row[name], value)
            compared += 1
    assert compared > 2_000
    last = FIRST + WEEKS * WEEK
    for store, dept in {(s, d) for s, d, _ in sales}:  # the week that follows the last one is known of, too
        assert equals(rows[store, dept, begin_of(last)]["lag_1"], sales.get((store, dept, last - WEEK)))


@pytest.mark.parametrize("table", ["sales_history", "department_history"])
def test_what_is_known_when_a_week_begins_does_not_depend_on_later_sales(
    tables: ModuleType, sales: Sales, table: str
) -> None:
    week = FIRST + 80 * WEEK
    changed = {key: value if key[2] < week else value * 3 + 1_000 for key, value in sales.items()}
    before, after = (
        getattr(tables, table)(to_frame(tables, rows))
        .filter(pl.col("event_timestamp") <= begin_of(week))
        .collect()
        for rows in (sales, changed)
    )
    assert before.height > 100
    assert before.equals(after)


def test_season_and_pace_are_those_of_the_department_in_all_stores(tables: ModuleType, sales: Sales) -> None:
    totals: dict[tuple[int, date], float] = {}
    for (_, dept, week), value in sales.items():
        totals[dept, week] = totals.get((dept, week), 0.0) + value

    def mean_before(dept: int, week: date) -> float | None:
        """Of the 13 weeks before, if at least 4 are known and it is positive."""
        known = [t for k in range(1, 14) if (t := totals.get((dept, week - k * WEEK))) is not None]
        value = mean([*known])
        return value if len(known) >= 4 and value is not None and value > 0 else None

    def ratio(value: float | None, divisor: float | None) -> float | None:
        return None if value is None or divisor is None else value / divisor

    history = tables.department_history(to_frame(tables, sales)).collect()
    compared = 0
    for row in history.iter_rows(named=True):
        week = row["event_timestamp"].date() + timedelta(days=6)  # the Friday of the week that begins
        dept = row["dept"]
        year_ago = week - 52 * WEEK
        season = ratio(totals.get((dept, year_ago)), mean_before(dept, year_ago))
        pace = ratio(totals.get((dept, week - WEEK)), mean_before(dept, week))
        assert equals(row["season"], season), (dept, week, row["season"], season)
        assert equals(row["pace"], pace), (dept, week, row["pace"], pace)
        compared += season is not None
    assert compared > 80


def test_weeks_that_do_not_end_on_a_friday_are_refused(tables: ModuleType, sales: Sales) -> None:
    shifted = {(store, dept, week + timedelta(days=1)): value for (store, dept, week), value in sales.items()}
    rows = to_frame(tables, shifted).collect()
    assert tables.WeeklySales.is_valid(to_frame(tables, sales).collect())
    assert not tables.WeeklySales.is_valid(rows)


def features(**columns: Any) -> pl.LazyFrame:
    row = {
        "Store": 1, "Date": FIRST, "Temperature": 40.5, "Fuel_Price": 3.1,
        **{f"MarkDown{n}": None for n in range(1, 6)}, "CPI": 211.0, "Unemployment": None, "IsHoliday": True,
    }  # fmt: skip
    schema = {f"MarkDown{n}": pl.Float64 for n in range(1, 6)} | {"Unemployment": pl.Float64}
    return pl.DataFrame([row | columns], schema_overrides=schema).lazy()


def test_a_stores_week_is_known_when_it_begins(tables: ModuleType) -> None:
    (row,) = tables.store_weeks(features(MarkDown2=10.0, MarkDown5=2.5)).collect().to_dicts()
    assert row == {
        "store": 1,
        "event_timestamp": begin_of(FIRST),
        "week_of_year": 0,
        "is_holiday": True,
        "temperature": 40.5,
        "fuel_price": 3.1,
        "markdown": 12.5,
        "cpi": 211.0,
        "unemployment": None,
    }
    (row,) = tables.store_weeks(features()).collect().to_dicts()
    assert row["markdown"] is None


def test_the_public_stores_have_no_region(tables: ModuleType) -> None:
    rows = pl.DataFrame({"Store": [1], "Type": ["A"], "Size": [151_315.0]})
    (row,) = tables.stores(rows.lazy()).collect().to_dicts()
    assert (row["type"], row["size"], row["region"]) == ("A", 151_315.0, None)
    (row,) = tables.stores(rows.with_columns(Region=pl.lit("north")).lazy()).collect().to_dicts()
    assert row["region"] == "north"
