"""The order of changes, against a database that is simulated with its failovers, snapshots and losses."""

from __future__ import annotations

import random

import polars as pl
import pytest
from tests.events.customers import NOON
from tests.tables.database import KEYS, Database, Event

from headrace.kernel.time import from_micros
from headrace.tables.changelog import as_of, find_cuts, history, latest_changes, survivors
from headrace.tables.order import find_eras

INSTANT = pl.Datetime("us", "UTC")
SCHEMA = {
    "id": pl.Int64,
    "name": pl.String,
    "_op": pl.String,
    "_lsn": pl.Int64,
    "_changed_at": INSTANT,
    "_transaction": pl.Int64,
    "_snapshot": pl.String,
    "_unchanged": pl.List(pl.String),
    "_log_partition": pl.Int32,
    "_log_offset": pl.Int64,
    "_first_partition": pl.Int32,
    "_first_offset": pl.Int64,
}


def changelog(log: list[Event], seed: int) -> pl.DataFrame:
    """The log as ingest writes it: refused events are replayed later, with their first position."""
    chance = random.Random(seed)
    rows, replayed = [], []
    for offset, event in enumerate(log):
        at = from_micros(NOON + event.time)
        row = (event.key, event.value, event.op, event.lsn, at, None, event.snapshot, None, 0)
        if chance.random() < 0.1:
            replayed.append((*row[:-1], 0, len(log) + len(replayed), 0, offset))
        else:
            rows.append((*row, offset, None, None))
    chance.shuffle(replayed)
    return pl.DataFrame([*rows, *replayed], schema=SCHEMA, orient="row").sample(
        fraction=1, shuffle=True, seed=seed
    )


def rows_of(frame: pl.DataFrame) -> dict[int, str]:
    return dict(frame.select("id", "name").rows())


@pytest.mark.parametrize("seed", range(30))
def test_rows_equal_the_database_now_and_as_of_any_time(seed: int) -> None:
    database = Database(seed)
    database.run(200)
    frame = changelog(database.log, seed)
    eras = find_eras(frame, ["id"])
    current = survivors(latest_changes(frame, ["id"], eras), find_cuts(frame, eras), eras)
    assert rows_of(current) == database.rows
    states = history(frame.lazy(), ["id"]).sort("_changed_at").collect()
    for time, rows in database.known[:: len(database.known) // 8]:
        moment = from_micros(NOON + time)
        assert rows_of(as_of(frame.lazy(), ["id"], moment)) == rows, time
        labels = pl.DataFrame({"id": list(KEYS)}).with_columns(pl.lit(moment).cast(INSTANT).alias("at"))
        joined = labels.join_asof(states, left_on="at", right_on="_changed_at", by="id", check_sortedness=False)
        assert rows_of(joined.drop_nulls("name")) == rows, time


@pytest.mark.parametrize("seed", range(60, 75))
def test_one_server_has_one_era(seed: int) -> None:
    database = Database(seed, failover=False)
    database.run(200)
    assert find_eras(changelog(database.log, seed), ["id"]) == []
