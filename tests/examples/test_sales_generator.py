"""The generator of the sales: repeatable, in the shape of the public data set, with a known best forecast."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.examples.example import load_script

END = date(2026, 11, 25)  # a Wednesday
STORES = 6


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load_script("sales", "generate")


@pytest.fixture(scope="module")
def generated(generator: ModuleType) -> Any:
    return generator.generate(STORES, 7, END)


def test_rows_depend_on_the_seed_alone(generator: ModuleType, generated: Any) -> None:
    same, other = (generator.generate(STORES, seed, END) for seed in (7, 8))
    for name in ("train", "features", "stores", "truth"):
        assert getattr(same, name).equals(getattr(generated, name))
    assert not other.train.equals(generated.train)


def test_every_department_of_every_store_has_every_week(generated: Any) -> None:
    train = generated.train
    assert train.height == STORES * 81 * 143
    assert train.select("Store", "Dept", "Date").is_duplicated().sum() == 0
    assert [train[name].n_unique() for name in ("Store", "Dept", "Date")] == [STORES, 81, 143]
    assert 52 * 81 * 143 == 602_316  # the default
    days = train["Date"].unique().sort()
    assert days.dt.weekday().unique().to_list() == [5]
    assert days.diff().drop_nulls().unique().to_list() == [timedelta(weeks=1)]
    assert days[-1] == date(2026, 11, 20)  # the last Friday before END
    assert 0 < (train["Weekly_Sales"] < 0).sum() < train.height / 100


def test_features_run_past_the_sales(generated: Any) -> None:
    features = generated.features
    assert features.height == STORES * 182
    assert features["Date"].max() == date(2026, 11, 20) + timedelta(weeks=39)
    holidays = features.filter("IsHoliday")["Date"].unique().sort().to_list()
    assert date(2024, 11, 29) in holidays  # Thanksgiving 2024 was on 28 November
    assert date(2025, 12, 26) in holidays
    assert date(2026, 2, 13) in holidays  # the Super Bowl of 2026 was on 8 February
    assert date(2025, 9, 5) in holidays  # Labor Day of 2025 was on 1 September
    first = features["Date"].min() + timedelta(weeks=92)
    for name in (f"MarkDown{n}" for n in range(1, 6)):
        assert features.filter(pl.col("Date") < first)[name].null_count() == STORES * 92
        assert features.filter(pl.col("Date") >= first)[name].count() > 0


def test_the_noise_floor_is_the_wape_of_the_expectation_and_no_shift_of_it_is_better(
    generator: ModuleType, generated: Any
) -> None:
    sales = generated.train["Weekly_Sales"].to_numpy()
    expected = generated.truth["expected"].to_numpy()
    floor = sum(abs(a - b) for a, b in zip(sales, expected, strict=True)) / sum(abs(a) for a in sales)
    assert generated.noise_floor == pytest.approx(floor)
    assert 0.1 < floor < 0.25
    for factor in (0.9, 0.97, 1.03, 1.1):
        assert generator.wape(sales, expected * factor) > floor
    naive = generated.train.sort("Store", "Dept", "Date").with_columns(
        earlier=pl.col("Weekly_Sales").shift(52).over("Store", "Dept")
    )
    known = naive.drop_nulls("earlier")
    assert generator.wape(known["Weekly_Sales"].to_numpy(), known["earlier"].to_numpy()) > 1.4 * floor


def test_season_holidays_prices_and_markdowns_move_the_expectation(generated: Any) -> None:
    """The logarithm of the expectation is linear in them; a regression finds each, in some departments."""
    rows = generated.truth.join(generated.features, on=["Store", "Date"]).with_columns(
        log=pl.col("expected").log(),
        markdown=pl.sum_horizontal(pl.col(f"MarkDown{n}").fill_null(0) for n in range(1, 6)),
    )
    varied = rows.group_by("Store", "Dept").agg(
        season=pl.col("log").std(), markdown=pl.corr("log", "markdown"), prices=pl.corr("log", "CPI")
    )
    assert varied["season"].quantile(0.9) > 0.15
    assert varied["markdown"].quantile(0.9) > 0.3
    assert np.isfinite(varied["prices"].to_numpy()).all()
    before_christmas = rows.filter(pl.col("Date").is_in([date(2025, 12, 19)]))["expected"].sum()
    november = rows.filter(pl.col("Date").is_in([date(2025, 11, 7)]))["expected"].sum()
    assert before_christmas > 1.1 * november


def test_files_are_written_as_the_public_ones(generator: ModuleType, generated: Any, tmp_path: Path) -> None:
    generator.write(generated, tmp_path)
    assert (tmp_path / "train.csv").read_text().startswith("Store,Dept,Date,Weekly_Sales,IsHoliday\n1,1,")
    lines = (tmp_path / "features.csv").read_text().splitlines()
    assert lines[0] == (
        "Store,Date,Temperature,Fuel_Price,MarkDown1,MarkDown2,MarkDown3,MarkDown4,MarkDown5,CPI,Unemployment,"
        "IsHoliday"
    )
    assert ",NA,NA,NA,NA,NA," in lines[1]
    assert lines[1].endswith((",TRUE", ",FALSE"))
    assert (tmp_path / "stores.csv").read_text().startswith("Store,Type,Size,Region\n")
