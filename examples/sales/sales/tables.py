"""The tables: weekly sales, what is known of them when a week begins, the stores, and their weeks.

A week is named by the Friday that ends it, as in the files. It begins on the Saturday before, at 0:00 UTC: the
moment of the prediction. All of the files are read whole, so the tables are not partitioned.
"""

from datetime import UTC, date, datetime

import dataframely as dy
import polars as pl

from headrace import references, rows_like_before, source, table

LAGS = (1, 2, 4, 8, 52)
SPANS = (4, 13)
YEAR = 52  # weeks
FRIDAY = 5

train_file = source(
    "train_file",
    "data/train.csv",
    schema={"Store": int, "Dept": int, "Date": date, "Weekly_Sales": float, "IsHoliday": bool},
    null_values=["NA"],
)
features_file = source(
    "features_file",
    "data/features.csv",
    schema={
        "Store": int,
        "Date": date,
        "Temperature": float,
        "Fuel_Price": float,
        **{f"MarkDown{n}": float for n in range(1, 6)},
        "CPI": float,
        "Unemployment": float,
        "IsHoliday": bool,
    },
    null_values=["NA"],
)
stores_file = source(
    "stores_file", "data/stores.csv", schema={"Store": int, "Type": str, "Size": float}, null_values=["NA"]
)


def begin(week: pl.Expr) -> pl.Expr:
    """The moment at which the week begins that ends on this Friday."""
    return week.dt.offset_by("-6d").cast(pl.Datetime("us", "UTC"))


def end(week: pl.Expr) -> pl.Expr:
    """The moment at which the week has ended: its sales are known."""
    return week.dt.offset_by("1d").cast(pl.Datetime("us", "UTC"))


class WeeklySales(dy.Schema):
    store = dy.Int64(nullable=False, primary_key=True)
    dept = dy.Int64(nullable=False, primary_key=True)
    week = dy.Date(
        nullable=False, primary_key=True, check={"is_a_friday": lambda week: week.dt.weekday() == FRIDAY}
    )
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    sales = dy.Float64(
        nullable=False, allow_inf=False, allow_nan=False
    )  # negative: more was returned than sold


@table(
    reads=train_file,
    schema=WeeklySales,
    audits=[references("store", "stores"), rows_like_before(0.5, severity="warn")],
)
def weekly_sales(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The labels: the sales of each week, to be predicted when it begins."""
    return rows.select(
        store="Store",
        dept="Dept",
        week="Date",
        event_timestamp=begin(pl.col("Date")),
        sales="Weekly_Sales",
    )


class SalesHistory(dy.Schema):
    store = dy.Int64(nullable=False, primary_key=True)
    dept = dy.Int64(nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False, primary_key=True)
    department = dy.Int64(nullable=False)
    lag_1 = dy.Float64(nullable=True)
    lag_2 = dy.Float64(nullable=True)
    lag_4 = dy.Float64(nullable=True)
    lag_8 = dy.Float64(nullable=True)
    lag_52 = dy.Float64(nullable=True)
    mean_4 = dy.Float64(nullable=True)
    mean_13 = dy.Float64(nullable=True)
    mean_4_last_year = dy.Float64(nullable=True)


@table(reads=weekly_sales, schema=SalesHistory)
def sales_history(sales: pl.LazyFrame) -> pl.LazyFrame:
    """What is known of a department's sales when a week has ended, for the prediction of the next week.

    `lag_n` are the sales n weeks before the next week, null if the department has no row for that week;
    `mean_n` is the mean over the n weeks before it.
    """
    series = ["store", "dept"]
    weeks = (
        sales.group_by(series)
        .agg(first=pl.col("week").min())
        .join(sales.select(last=pl.col("week").max()), how="cross")
        .with_columns(week=pl.date_ranges("first", "last", "1w"))
        .explode("week")
        .join(sales.select(*series, "week", "sales"), on=[*series, "week"], how="left")
        .sort(*series, "week")
    )
    known = pl.col("sales")
    lags = {f"lag_{n}": known.shift(n - 1).over(series) for n in LAGS}
    means = {f"mean_{n}": known.rolling_mean(n, min_samples=1).over(series) for n in SPANS}
    return weeks.select(
        *series,
        event_timestamp=end(pl.col("week")),
        department="dept",
        mean_4_last_year=known.rolling_mean(4, min_samples=1).shift(YEAR).over(series),
        **lags,
        **means,
    )


class DepartmentHistory(dy.Schema):
    dept = dy.Int64(nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False, primary_key=True)
    season = dy.Float64(nullable=True)
    pace = dy.Float64(nullable=True)


@table(reads=weekly_sales, schema=DepartmentHistory)
def department_history(sales: pl.LazyFrame) -> pl.LazyFrame:
    """What is known of a department in all stores together when a week has ended: one store has more noise.

    `season` are its sales in the next week of a year ago, and `pace` those of this week, each relative to the
    mean of the 13 weeks up to then.
    """
    weeks = (
        sales.group_by("dept")
        .agg(week=pl.date_ranges(pl.col("week").min(), pl.col("week").max(), "1w").first())
        .explode("week")
        .join(sales.group_by("dept", "week").agg(pl.col("sales").sum()), on=["dept", "week"], how="left")
        .sort("dept", "week")
    )
    known = pl.col("sales")
    mean = known.rolling_mean(13, min_samples=4)
    mean = pl.when(mean > 0).then(mean)
    return weeks.select(
        "dept",
        event_timestamp=end(pl.col("week")),
        season=(known.shift(YEAR - 1) / mean.shift(YEAR)).over("dept"),
        pace=(known / mean).over("dept"),
    )


class StoreWeeks(dy.Schema):
    store = dy.Int64(nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False, primary_key=True)
    week_of_year = dy.Int64(nullable=False)
    is_holiday = dy.Bool(nullable=False)
    temperature = dy.Float64(nullable=True)
    fuel_price = dy.Float64(nullable=True)
    markdown = dy.Float64(nullable=True)
    cpi = dy.Float64(nullable=True)
    unemployment = dy.Float64(nullable=True)


@table(reads=features_file, schema=StoreWeeks)
def store_weeks(rows: pl.LazyFrame) -> pl.LazyFrame:
    """A store's week as it is planned and forecast when it begins. The file runs on after the sales."""
    markdowns = [pl.col(f"MarkDown{n}") for n in range(1, 6)]
    return rows.select(
        store="Store",
        event_timestamp=begin(pl.col("Date")),
        week_of_year=pl.col("Date").dt.ordinal_day().cast(pl.Int64) // 7,
        is_holiday="IsHoliday",
        temperature="Temperature",
        fuel_price="Fuel_Price",
        markdown=pl.when(pl.any_horizontal(m.is_not_null() for m in markdowns)).then(
            pl.sum_horizontal(markdowns)
        ),
        cpi="CPI",
        unemployment="Unemployment",
    )


class Stores(dy.Schema):
    store = dy.Int64(nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    type = dy.String(nullable=False)
    size = dy.Float64(nullable=False, min_exclusive=0)  # square feet
    region = dy.String(nullable=True)  # the public data set has none


@table(reads=stores_file, schema=Stores)
def stores(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The facts of a store, which do not change."""
    has_region = "Region" in rows.collect_schema()
    return rows.select(
        store="Store",
        event_timestamp=pl.lit(datetime(2000, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC")),
        type="Type",
        size="Size",
        region=pl.col("Region") if has_region else pl.lit(None, pl.String),
    )
