"""The shop's tables: clean events, facts of a product, and the labels."""

from datetime import datetime, timedelta

import dataframely as dy
import polars as pl

from headrace import day, source, table
from shop.events import UserBehaviour

SILENCE = timedelta(minutes=30)  # a session silent for this long is over

departments_file = source("departments_file", "data/departments.csv")


class CleanEvents(dy.Schema):
    event_time = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    event_type = dy.String(nullable=False)
    product_id = dy.Int64(nullable=False)
    category_id = dy.Int64(nullable=False)
    user_id = dy.Int64(nullable=False)
    price = dy.Float64(nullable=False, min_exclusive=0)
    user_session = dy.String(nullable=False)
    brand = dy.String(nullable=True)
    department = dy.String(nullable=True)
    # An aggregation counts values that are not null, so each of these is null for other kinds of events.
    viewed_product = dy.Int64(nullable=True)
    carted_product = dy.Int64(nullable=True)
    purchased_product = dy.Int64(nullable=True)
    purchased_value = dy.Float64(nullable=True)


@table(reads=UserBehaviour, partition_by=day("event_time"), rowwise=True, schema=CleanEvents)
def clean_events(events: pl.LazyFrame) -> pl.LazyFrame:
    """The columns that readers of events need. A row is made from one event, so this runs on the stream too."""

    def where(kind: str, column: str) -> pl.Expr:
        return pl.when(pl.col("event_type") == kind).then(pl.col(column))

    return events.select(
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "user_id",
        "price",
        "user_session",
        "_known_at",
        brand=pl.when(pl.col("brand") != "").then(pl.col("brand").str.to_lowercase()),
        department=pl.when(pl.col("category_code") != "").then(
            pl.col("category_code").str.split(".").list.first()
        ),
        viewed_product=where("view", "product_id"),
        carted_product=where("cart", "product_id"),
        purchased_product=where("purchase", "product_id"),
        purchased_value=where("purchase", "price"),
    )


class Departments(dy.Schema):
    department = dy.String(nullable=False, primary_key=True)
    consideration = dy.Float64(nullable=False, min=0, max=1)


@table(reads=departments_file, schema=Departments)
def departments(rows: pl.LazyFrame) -> pl.LazyFrame:
    """How long customers think before they buy in a department, 0 (at once) to 1 (for weeks)."""
    return rows.select("department", pl.col("consideration").cast(pl.Float64))


class ProductFacts(dy.Schema):
    product_id = dy.Int64(nullable=False, primary_key=True)
    day = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False, primary_key=True)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    views = dy.Int64(nullable=False, min=0)
    carts = dy.Int64(nullable=False, min=0)
    purchases = dy.Int64(nullable=False, min=0)
    mean_price = dy.Float64(nullable=False, min_exclusive=0)
    consideration = dy.Float64(nullable=True)


@table(reads=[clean_events, departments], partition_by=day("day"), schema=ProductFacts)
def product_facts(events: pl.LazyFrame, departments: pl.LazyFrame) -> pl.LazyFrame:
    """The facts of a product on one day. They are known when the day is over, so their time is its end."""
    return (
        events.with_columns(day=pl.col("event_time").dt.truncate("1d"))
        .group_by("product_id", "day")
        .agg(
            views=pl.col("viewed_product").count().cast(pl.Int64),
            carts=pl.col("carted_product").count().cast(pl.Int64),
            purchases=pl.col("purchased_product").count().cast(pl.Int64),
            mean_price=pl.col("price").mean(),
            department=pl.col("department").drop_nulls().sort().first(),
        )
        .join(departments, on="department", how="left")
        .select(
            "product_id",
            "day",
            pl.col("day").dt.offset_by("1d").alias("event_timestamp"),
            "views",
            "carts",
            "purchases",
            "mean_price",
            "consideration",
        )
    )


class ViewOutcomes(dy.Schema):
    user_id = dy.Int64(nullable=False)
    product_id = dy.Int64(nullable=False)
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    event_type = dy.String(nullable=False)
    price = dy.Float64(nullable=False)
    user_session = dy.String(nullable=False)
    session_start = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    is_purchased = dy.Int64(nullable=False, min=0, max=1)


@table(
    reads=clean_events,
    partition_by=day("session_start", before="1d", after="1d"),  # a session may cross midnight
    schema=ViewOutcomes,
)
def view_outcomes(events: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
    """At each view or cart: is this product bought later in the same session?

    A session belongs to the day on which it began, and has labels once it has been silent for half an hour.
    """
    bought = pl.col("event_time").filter(pl.col("event_type") == "purchase").max()
    return (
        events.with_columns(
            session_start=pl.col("event_time").min().over("user_session"),
            session_end=pl.col("event_time").max().over("user_session"),
            last_bought=bought.over("user_session", "product_id"),
        )
        .filter(
            pl.col("session_end") + SILENCE <= now,
            pl.col("event_type").is_in(["view", "cart"]),
        )
        .select(
            "user_id",
            "product_id",
            pl.col("event_time").alias("event_timestamp"),
            "event_type",
            "price",
            "user_session",
            "session_start",
            is_purchased=(pl.col("last_bought") > pl.col("event_time")).fill_null(False).cast(pl.Int64),
        )
    )
