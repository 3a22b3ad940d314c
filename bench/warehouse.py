"""The publication of a million facts to PostgreSQL, beside a bare COPY of the same columns from a file."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))
from services.postgres import postgres

from headrace.config.settings import make_settings
from headrace.declare.partitioning import day
from headrace.declare.place import Place
from headrace.declare.publish import Dimension, Fact, Publication
from headrace.declare.table import Table
from headrace.lake import Lake, LakeTable
from headrace.lake import open as open_lake
from headrace.tables.warehouse.facts import FactTable
from headrace.tables.warehouse.publication import publish_star

FACTS, USERS, DAYS = 1_000_000, 20_000, 30
START = datetime(2026, 4, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HERE = Place("bench/warehouse.py", 1)
COLUMNS = "at timestamptz, user_id bigint, kind text, price double precision"


def write_facts(lake: Lake) -> tuple[pl.DataFrame, LakeTable]:
    generator = np.random.default_rng(7)
    micros = np.sort(generator.integers(0, DAYS * 86_400_000_000, FACTS))
    rows = pl.DataFrame(
        {
            "at": pl.Series(micros + int(START.timestamp()) * 1_000_000).cast(pl.Datetime("us", "UTC")),
            "user_id": generator.integers(0, USERS, FACTS),
            "kind": generator.choice(["view", "cart", "purchase"], FACTS),
            "price": generator.random(FACTS).round(2),
        }
    )
    arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    table = lake.ensure("facts", arrow.schema, (("at", "day"),))
    table.overwrite(arrow)
    return rows, table


def time_copy(rows: pl.DataFrame, file: Path, url: str) -> tuple[float, float]:
    """Seconds that PostgreSQL takes to COPY the rows from a file into a table, and to add indexes and a foreign
    key as a publication does."""
    text = rows.with_columns(pl.col("at").dt.to_string("iso:strict"))
    text.write_csv(file, include_header=False, quote_style="non_numeric")
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("drop table if exists bare; drop table if exists users")
        cursor.execute(f"create table bare ({COLUMNS}); create table users (user_id bigint primary key)")
        start = time.perf_counter()
        with cursor.copy("copy bare from stdin (format csv)") as stream, file.open("rb") as content:
            while part := content.read(1 << 20):
                stream.write(part)
        connection.commit()
        copied = time.perf_counter()
        cursor.execute("insert into users select distinct user_id from bare")
        cursor.execute("alter table bare add foreign key (user_id) references users")
        for column in ("user_id", "at", "kind"):  # a publication has date_key instead of kind
            cursor.execute(f"create index on bare ({column})")
        connection.commit()
        return copied - start, time.perf_counter() - start


def time_publication(
    lake: Lake, table: LakeTable, star: Publication, url: str, code: str
) -> tuple[float, float]:
    """Seconds that a publication takes, and seconds of it that load the facts."""
    loading = 0.0
    load = FactTable.load

    def timed_load(*arguments: Any) -> int:
        nonlocal loading
        start = time.perf_counter()
        count = load(*arguments)
        loading += time.perf_counter() - start
        return count

    FactTable.load = timed_load  # type: ignore[method-assign]
    snapshot = table.current_snapshot()
    assert snapshot is not None
    start = time.perf_counter()
    publish_star(lake, star, url, at={"facts": snapshot.id}, code=code)
    FactTable.load = load  # type: ignore[method-assign]
    return time.perf_counter() - start, loading


def print_figure(work: str, ours: float, peer: float | None = None) -> None:
    figure: dict[str, Any] = {"work": f"warehouse: {work}", "ours": round(ours, 2), "unit": "s"}
    if peer is not None:
        figure |= {"peer": round(peer, 2), "ratio": round(ours / peer, 2)}
    print(json.dumps(figure), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="accepted; the output is JSON always")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder), fsync=True) as server:
        lake = open_lake(make_settings(Path(folder), "bench", state=Path(folder) / "state"))
        rows, table = write_facts(lake)
        facts = Table(name="facts", function=lambda: None, reads=(), place=HERE, partition_by=day("at"))
        users = Dimension("dim_user", facts, key="user_id", rows=lambda rows: rows.select("user_id").unique())
        fact = Fact("fact_events", facts, time="at", references={"user_id": users})
        star = Publication("shop", "warehouse", (fact,), {}, dict, HERE)
        turns = [
            (
                time_copy(rows, Path(folder) / "rows.csv", server.url),
                time_publication(lake, table, star, server.url, code=str(turn)),
            )
            for turn in range(3)
        ]
        copy, whole_copy = (median(peer[part] for peer, _ in turns) for part in (0, 1))
        whole, load = (median(ours[part] for _, ours in turns) for part in (0, 1))
        print_figure("load of 1M facts; peer: COPY of a file", load, copy)
        print_figure("publication of 1M facts; peer: COPY, indexes and foreign key", whole, whole_copy)
        one_day = rows.filter(pl.col("at").dt.date() == START.date())
        arrow = one_day.to_arrow(compat_level=pl.CompatLevel.oldest())
        table.overwrite(arrow, partitions=(("at", "day"), [(START - EPOCH).days]))
        print_figure(
            "publication of one changed day of 30", time_publication(lake, table, star, server.url, "2")[0]
        )


if __name__ == "__main__":
    main()
