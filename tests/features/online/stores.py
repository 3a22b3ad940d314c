"""Views and rows for tests of the online stores, and one store of each kind that can be opened again."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import polars as pl
import psycopg
import redis
from tests.features.views import DAY, HOUR, MINUTE, events_frame, exact, instant, view_of_all_functions

from headrace.features.offline.windows import aggregate
from headrace.features.online.postgres import open_postgres
from headrace.features.online.redis import open_redis
from headrace.features.online.sqlite import open_sqlite
from headrace.features.plan import LIFETIME, AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.postgres import schema_of

NOW = 1_760_000_000_000_000 + 17 * MINUTE + 123_457
ACTIVITY = view_of_all_functions((HOUR, 15 * DAY, (DAY, 7 * DAY), (HOUR, 5 * MINUTE), LIFETIME))
FACTS = AsOfView(
    "facts", ("user_id",), "facts", "time", (PlanField("x", "int64"), PlanField("y", "float64")), 2 * HOUR
)
USER = EntityKey("user", "user_id", "int64")


def plan_of(*views, entities=(USER,), **rest):
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("m", entities, views, features, **rest)


def at_offset(offset, topic="clicks"):
    return LogPosition(topic, "one", {0: offset})


PLAN = plan_of(ACTIVITY, FACTS)
EVENTS = [(user, NOW - 1 - user, user, 1.5, "a", True) for user in range(1, 60)]


def fill(store, events=EVENTS):
    """Fills the views of PLAN: from these events, at their number, and from facts of 2,000 users."""
    store.prepare(PLAN)
    store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(len(events)))
    rows = facts([(user, NOW - HOUR, user, 0.5) for user in range(2000)])
    store.load(FACTS, rows, SnapshotPosition("facts", 1))


def look_up(store, users):
    """The values and positions; what they cost differs each time."""
    return store.lookup(PLAN, [{"user_id": user} for user in users], NOW)._replace(costs={})


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class Sqlite:
    """Opens the same store repeatedly, as restarts do."""

    def __init__(self, folder, clock):
        self._file, self._clock = folder / "online.db", clock

    def open(self):
        return closing(open_sqlite(self._file, clock=self._clock))

    def corrupt(self, view, key):
        """Overwrites the state of an entity with bytes that are not a state."""
        with closing(sqlite3.connect(self._file)) as db, db:
            (table,) = db.execute("select entities from views where digest = ?", (view.digest,)).fetchone()
            db.execute(f"update {table} set v_{view.digest} = x'94c1' where key = ?", (key,))


class Postgres:
    """The same on a PostgreSQL server. Each folder is another project on it."""

    def __init__(self, url, folder, clock):
        self._url, self._clock = url, clock
        self._project = "".join(character for character in str(folder).lower() if character.isalnum())

    def open(self):
        return closing(open_postgres(self._url, self._project, clock=self._clock))

    def corrupt(self, view, key):
        with psycopg.connect(self._url, autocommit=True) as db:
            table = f"{schema_of(self._project)}.v_{view.digest}"
            db.execute(f"update {table} set state = '\\x94c1' where key = %s", (key,))


class Redis:
    """The same on a Redis server. Each folder is another project on it."""

    def __init__(self, url, folder, clock):
        self._url, self._clock, self._project = url, clock, str(folder)

    def open(self):
        return closing(open_redis(self._url, self._project, clock=self._clock))

    def corrupt(self, view, key):
        with closing(redis.Redis.from_url(self._url)) as server:
            server.hset(f"headrace:{{{self._project}}}:state:{view.digest}", str(key), b"\x94\xc1")


def offline_rows(view, events, users, *moments):
    """The rows of these users at the first moment, then at the next."""
    rows = pl.DataFrame(
        [(user, instant(at)) for at in moments for user in users],
        schema={"user_id": pl.Int64, "at": pl.Datetime("us", "UTC")},
        orient="row",
    )
    return [list(row) for row in aggregate(view, rows, events_frame(events), at="at").rows()]


def exact_text(rows):
    """Rows as text."""
    return [[exact(value) for value in row] for row in rows]


def facts(rows):
    return pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "time": [instant(r[1]) for r in rows],
            "x": [r[2] for r in rows],
            "y": [r[3] for r in rows],
        },
        schema={"user_id": pl.Int64, "time": pl.Datetime("us", "UTC"), "x": pl.Int64, "y": pl.Float64},
    ).to_arrow()
