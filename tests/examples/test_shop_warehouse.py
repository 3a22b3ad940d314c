"""The shop's star schema in PostgreSQL, beside what its views say in words, computed from the events."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from tests.examples.example import import_package_module

from headrace.config.settings import make_settings
from headrace.lake import open as open_lake
from headrace.tables.warehouse.publication import publish_star

START = datetime(2026, 4, 1, 20, tzinfo=UTC)
KINDS = ["view", "view", "view", "cart", "purchase", "remove_from_cart"]


def events(count: int) -> list[dict[str, Any]]:
    generator = random.Random(5)
    return [
        {
            "event_time": START + timedelta(minutes=generator.randrange(600)),
            "event_type": generator.choice(KINDS),
            "product_id": generator.randrange(4),
            "category_id": generator.randrange(2),
            "user_id": (session := generator.randrange(9)) % 3,
            "price": float(generator.randrange(1, 4)),
            "user_session": f"s{session}",
            "brand": generator.choice(["a", None]),
            "department": generator.choice(["toys", None]),
        }
        for _ in range(count)
    ]


@pytest.fixture
def published(tmp_path: Path, empty_database: str) -> tuple[list[dict[str, Any]], str]:
    rows = events(120)
    lake = open_lake(make_settings(tmp_path, "shop", state=tmp_path / "state"))
    frame = pl.DataFrame(rows, {"event_time": pl.Datetime("us", "UTC"), **dict.fromkeys(list(rows[0])[1:])})
    table = lake.ensure("clean_events", frame.to_arrow().schema, (("event_time", "day"),))
    snapshot = table.overwrite(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
    shop = import_package_module("shop", "shop.warehouse").shop
    publish_star(lake, shop, empty_database, at={"clean_events": snapshot.id}, code="1")
    return rows, empty_database


def test_views_say_what_the_events_say(published: tuple[list[dict[str, Any]], str]) -> None:
    rows, url = published
    with psycopg.connect(url, options="-c timezone=UTC -c search_path=shop") as connection:

        def query(sql: str) -> list[tuple[Any, ...]]:
            return sorted(connection.execute(sql).fetchall())  # type: ignore[arg-type]

        sessions = {row["user_session"] for row in rows}
        summary = "select user_session, user_id, begins, ends, events, carts, revenue from session_summary"
        assert query(f"{summary} join dim_user using (user_key)") == sorted(
            (
                name,
                own[0]["user_id"],
                min(row["event_time"] for row in own),
                max(row["event_time"] for row in own),
                len(own),
                sum(row["event_type"] == "cart" for row in own),
                sum(row["price"] for row in own if row["event_type"] == "purchase"),
            )
            for name in sessions
            if (own := [row for row in rows if row["user_session"] == name])
        )  # fmt: skip
        categories = {(row["event_time"].date(), row["category_id"]) for row in rows}
        assert query("select date, category_id, views, purchases from category_performance") == sorted(
            (day, category, kinds.count("view"), kinds.count("purchase"))
            for day, category in categories
            if (
                kinds := [
                    row["event_type"]
                    for row in rows
                    if (row["event_time"].date(), row["category_id"]) == (day, category)
                ]
            )
        )
        columns = (
            "event_time, user_id, product_id, event_type, price, events_before, carts_before, is_purchased"
        )
        assert query(f"select {columns} from purchase_prediction") == sorted(
            prediction_row(row, rows) for row in rows if row["event_type"] in ("view", "cart")
        )
        price = (
            "select count(*) from fact_events f join dim_product p using (product_key) where p.valid_from <= f."
        )
        assert query(price + "event_time and (p.valid_to is null or f.event_time < p.valid_to)") == [
            (len(rows),)
        ]


def prediction_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    """The features count what lies strictly before the row in its session; the label what lies after."""
    session = [other for other in rows if other["user_session"] == row["user_session"]]
    before = [other for other in session if other["event_time"] < row["event_time"]]
    after = [other for other in session if other["event_time"] > row["event_time"]]
    return (
        *(row[name] for name in ("event_time", "user_id", "product_id", "event_type", "price")),
        len(before),
        sum(other["event_type"] == "cart" for other in before),
        any(other["event_type"] == "purchase" and other["product_id"] == row["product_id"] for other in after),
    )
