"""Generates the weekly sales of a chain of stores from a seed, in files as the public data set has them.

    python generate.py --rows 602316 --seed 7

writes data/train.csv, data/features.csv and data/stores.csv, and data/truth.parquet: the expected sales of
each row, which nobody knows in a real chain. Sales are the expectation times noise, so the best weighted error
(WAPE) that any forecast can reach is known. The expectation is a product of the level of store and department,
the trend, the season of the department, holidays, prices, fuel and markdowns.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

STORES, DEPARTMENTS, WEEKS = 52, 81, 143
WEEKS_AHEAD = 39  # the features run on after the sales: calendar, planned markdowns, forecasts
MARKDOWNS = 5
MARKDOWNS_FROM = 92  # the week from which markdowns are recorded
REGIONS = ("north", "east", "south", "west")
TYPES = {"A": (150_000, 220_000), "B": (70_000, 150_000), "C": (35_000, 45_000)}  # square feet
HERE = Path(__file__).parent

Numbers = npt.NDArray[np.float64]
Dates = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Generated:
    """The generated files as frames.

    Attributes:
        train: Store, Dept, Date, Weekly_Sales, IsHoliday, sorted by the first three.
        features: Store, Date, Temperature, Fuel_Price, MarkDown1 to 5, CPI, Unemployment, IsHoliday.
        stores: Store, Type, Size, Region.
        truth: Store, Dept, Date, expected.
    """

    train: pl.DataFrame
    features: pl.DataFrame
    stores: pl.DataFrame
    truth: pl.DataFrame

    @property
    def noise_floor(self) -> float:
        """The WAPE of the true expectation: no forecast can be better."""
        return wape(self.train["Weekly_Sales"].to_numpy(), self.truth["expected"].to_numpy())


def generate(stores: int, seed: int, end: date) -> Generated:
    """Generates 143 weeks of 81 departments in each store.

    Args:
        stores: the number of stores.
        seed: the same seed, number of stores and end give the same rows.
        end: the last week ends on the last Friday on or before this day.
    """
    rng = np.random.default_rng(seed)
    fridays = _fridays(end)
    weeks = fridays[:WEEKS]
    chain = _stores(rng, stores)
    features = _features(rng, chain, fridays)
    expected = _expected(rng, chain, features, fridays)[:, :, :WEEKS]
    spread = 0.12 + 0.35 * rng.random((1, DEPARTMENTS, 1)) ** 4  # some departments have many returns
    sales = np.round(expected * (1 + spread * rng.standard_normal(expected.shape)), 2)
    store, department, week = np.indices(expected.shape).reshape(3, -1)
    keys = pl.DataFrame({"Store": store + 1, "Dept": department + 1, "Date": weeks[week]})
    return Generated(
        train=keys.with_columns(Weekly_Sales=sales.reshape(-1), IsHoliday=_holidays(weeks).any(axis=0)[week]),
        features=features,
        stores=chain,
        truth=keys.with_columns(expected=expected.reshape(-1)),
    )


def wape(true: Numbers, predicted: Numbers) -> float:
    """The sum of the absolute errors, divided by the sum of the absolute true values."""
    return float(np.abs(true - predicted).sum() / np.abs(true).sum())


def _fridays(end: date) -> Dates:
    """The Fridays that end the weeks: those of the sales, and after them those of the features alone."""
    last = end - timedelta(days=(end.weekday() - 4) % 7)
    return np.datetime64(last, "D") + 7 * (np.arange(WEEKS + WEEKS_AHEAD) - WEEKS + 1)


def _holidays(fridays: Dates) -> npt.NDArray[np.bool_]:
    """Whether each of four holidays (rows) lies in the week that ends on each Friday."""
    years = range(fridays[0].astype(object).year, fridays[-1].astype(object).year + 1)
    rules = (
        lambda year: _weekday_of_month(year, 2, weekday=6, number=2),  # the Super Bowl
        lambda year: _weekday_of_month(year, 9, weekday=0, number=1),  # Labor Day
        lambda year: _weekday_of_month(year, 11, weekday=3, number=4),  # Thanksgiving
        lambda year: date(year, 12, 25),
    )
    days = np.array([[rule(year) for year in years] for rule in rules], "datetime64[D]")
    age = (fridays[None, :, None] - days[:, None, :]).astype(int)
    return ((age >= 0) & (age < 7)).any(axis=2)


def _weekday_of_month(year: int, month: int, *, weekday: int, number: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))


def _stores(rng: np.random.Generator, count: int) -> pl.DataFrame:
    types = rng.choice(list(TYPES), count, p=[0.5, 0.35, 0.15])
    low, high = np.array([TYPES[kind] for kind in types]).T
    return pl.DataFrame(
        {
            "Store": np.arange(count) + 1,
            "Type": types,
            "Size": rng.integers(low, high),
            "Region": np.array(REGIONS)[rng.integers(0, len(REGIONS), count)],
        }
    )


def _features(rng: np.random.Generator, chain: pl.DataFrame, fridays: Dates) -> pl.DataFrame:
    shape = (chain.height, len(fridays))
    region = np.array([REGIONS.index(name) for name in chain["Region"]])
    warm = 55 + 12 * (region - 1.5)
    temperature = warm[:, None] - 22 * np.cos(_year_angle(fridays)) + rng.normal(0, 4, shape)
    steps = rng.normal(0, 0.04, (len(REGIONS), len(fridays)))
    fuel = np.clip(3.2 + np.cumsum(steps, axis=1), 2, 5)[region]
    prices = (100 + 15 * rng.random(len(REGIONS)))[region][:, None] * (1 + 0.03 / 52) ** np.arange(len(fridays))
    unemployment = rng.uniform(5, 11, chain.height)[:, None] - 0.01 * np.arange(len(fridays))
    amounts = np.round(rng.lognormal(8, 1, (MARKDOWNS, *shape)), 2)
    recorded = (rng.random(amounts.shape) < 0.6) & (np.arange(len(fridays)) >= MARKDOWNS_FROM)
    columns = {
        "Temperature": np.round(temperature, 2),
        "Fuel_Price": np.round(fuel, 3),
        **{f"MarkDown{n + 1}": np.where(recorded[n], amounts[n], np.nan) for n in range(MARKDOWNS)},
        "CPI": np.round(prices, 4),
        "Unemployment": np.round(unemployment, 3),
        "IsHoliday": np.broadcast_to(_holidays(fridays).any(axis=0), shape),
    }
    store, week = np.indices(shape).reshape(2, -1)
    return pl.DataFrame({"Store": store + 1, "Date": fridays[week]}).with_columns(
        pl.Series(name, values.reshape(-1), nan_to_null=True) for name, values in columns.items()
    )


def _expected(rng: np.random.Generator, chain: pl.DataFrame, features: pl.DataFrame, fridays: Dates) -> Numbers:
    """The expected sales by store, department and week."""
    shape = (chain.height, len(fridays))

    def weekly(column: str) -> Numbers:
        return features[column].fill_null(0).to_numpy().reshape(shape)[:, None, :]

    def by_department(low: float, high: float) -> Numbers:
        return rng.uniform(low, high, (1, DEPARTMENTS, 1))

    size = chain["Size"].to_numpy()[:, None, None] / 100_000
    level = rng.lognormal(8.5, 0.9, (1, DEPARTMENTS, 1)) * rng.lognormal(0, 0.3, (len(size), DEPARTMENTS, 1))
    growth = rng.uniform(-0.06, 0.12, (chain.height, 1, 1)) + rng.uniform(-0.08, 0.08, (1, DEPARTMENTS, 1))
    years = np.arange(len(fridays)) / 52
    angle = _year_angle(fridays) - by_department(0, 2 * np.pi)
    season = by_department(0, 0.35) * np.cos(angle) + by_department(0, 0.15) * np.cos(2 * angle)
    holidays = _holidays(fridays)
    before_christmas = np.append(holidays[3, 1:], False)
    effects = np.concatenate([holidays, before_christmas[None]]).astype(float)
    lift = rng.gamma(1.0, [0.08, 0.08, 0.25, 0.05, 0.3], (DEPARTMENTS, len(effects)))
    markdown = sum(weekly(f"MarkDown{n + 1}") for n in range(MARKDOWNS)) / 10_000
    logarithm = (
        growth * years
        + season
        + (lift @ effects)[None]
        + by_department(0, 0.10) * np.log1p(markdown)
        - by_department(0, 0.12) * (weekly("Fuel_Price") - 3.2)
        + np.log(weekly("CPI") / 100)
        - 0.02 * (weekly("Unemployment") - 8)
    )
    return level * size**0.8 * np.exp(logarithm)


def _year_angle(days: Dates) -> Numbers:
    """The place of each day in its year, as an angle."""
    return 2 * np.pi * (days - days.astype("datetime64[Y]")).astype(float) / 365.25


def write(generated: Generated, folder: Path) -> None:
    """Writes the files as the public data set has them: `NA` for no value, `TRUE` and `FALSE`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "features", "stores"):
        frame: pl.DataFrame = getattr(generated, name)
        words = pl.col(pl.Boolean).cast(pl.String).str.to_uppercase()
        frame.with_columns(words).write_csv(folder / f"{name}.csv", null_value="NA")
    generated.truth.write_parquet(folder / "truth.parquet")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=STORES * DEPARTMENTS * WEEKS)
    arguments.add_argument("--seed", type=int, default=7)
    options: Any = arguments.parse_args()
    stores = max(1, round(options.rows / (DEPARTMENTS * WEEKS)))
    generated = generate(stores, options.seed, datetime.now(UTC).date() - timedelta(days=1))
    write(generated, HERE / "data")
    print(json.dumps({"rows": generated.train.height, "noise_floor": generated.noise_floor}))


if __name__ == "__main__":
    main()
