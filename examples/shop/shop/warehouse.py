"""The shop's warehouse: a star schema in PostgreSQL, for people who ask questions in SQL.

It is published where the profile names the database `warehouse` (profile postgres).
"""

import polars as pl

from headrace import Dimension, Fact, publish
from shop.tables import clean_events


def describe_users(events: pl.LazyFrame) -> pl.LazyFrame:
    return events.group_by("user_id").agg(first_seen=pl.col("event_time").min())


def describe_products(events: pl.LazyFrame) -> pl.LazyFrame:
    """What a product was on each day: its first price of the day, and its brand and department."""
    first = pl.col("event_time").min()
    return (
        events.group_by("product_id", day=pl.col("event_time").dt.truncate("1d"))
        .agg(
            since=first,
            price=pl.col("price").filter(pl.col("event_time") == first).min(),
            brand=pl.col("brand").drop_nulls().min(),
            department=pl.col("department").drop_nulls().min(),
        )
        .drop("day")
    )


def describe_categories(events: pl.LazyFrame) -> pl.LazyFrame:
    return events.group_by("category_id").agg(department=pl.col("department").drop_nulls().min())


users = Dimension("dim_user", clean_events, key="user_id", rows=describe_users)
products = Dimension("dim_product", clean_events, key="product_id", rows=describe_products, since="since")
categories = Dimension("dim_category", clean_events, key="category_id", rows=describe_categories)
events = Fact(
    "fact_events",
    clean_events,
    time="event_time",
    references={"user_id": users, "product_id": products, "category_id": categories},
    columns=["event_type", "price", "user_session"],
)

SESSION_SUMMARY = """
select user_session, user_key, min(event_time) as begins, max(event_time) as ends, count(*) as events,
    count(*) filter (where event_type = 'view') as views,
    count(*) filter (where event_type = 'cart') as carts,
    count(*) filter (where event_type = 'purchase') as purchases,
    coalesce(sum(price) filter (where event_type = 'purchase'), 0) as revenue
from fact_events group by user_session, user_key
"""
CATEGORY_PERFORMANCE = """
select d.date, c.category_id, c.department,
    count(*) filter (where f.event_type = 'view') as views,
    count(*) filter (where f.event_type = 'cart') as carts,
    count(*) filter (where f.event_type = 'purchase') as purchases,
    coalesce(sum(f.price) filter (where f.event_type = 'purchase'), 0) as revenue
from fact_events f join dim_date d using (date_key) join dim_category c using (category_key)
group by d.date, c.category_id, c.department
"""
# A row for each view and each cart. Its features count what lies strictly before it; the label looks ahead.
PURCHASE_PREDICTION = """
select event_time, user_id, product_id, event_type, price, events_before, carts_before, is_purchased
from (
    select f.event_time, u.user_id, p.product_id, f.event_type, f.price,
        count(*) over before as events_before,
        count(*) filter (where f.event_type = 'cart') over before as carts_before,
        coalesce(max(f.event_time) filter (where f.event_type = 'purchase')
            over (partition by f.user_session, p.product_id) > f.event_time, false) as is_purchased
    from fact_events f join dim_user u using (user_key) join dim_product p using (product_key)
    window before as (partition by f.user_session order by f.event_time
        range between unbounded preceding and current row exclude group)
) every_event where event_type in ('view', 'cart')
"""


@publish(database="warehouse", facts=[events])
def shop() -> dict[str, str]:
    return {
        "session_summary": SESSION_SUMMARY,
        "category_performance": CATEGORY_PERFORMANCE,
        "purchase_prediction": PURCHASE_PREDICTION,
    }
