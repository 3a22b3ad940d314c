"""Star schemas on a real PostgreSQL, beside what their definition says of the tables' rows."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import polars as pl
import psycopg
import pytest
from tests.tcp_proxy import proxy_tcp
from tests.until import until

from headrace.config.settings import make_settings
from headrace.declare.partitioning import day
from headrace.declare.place import Place
from headrace.declare.publish import Dimension, Fact, Publication
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError, Refused, Unavailable
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.tables.warehouse import publication
from headrace.tables.warehouse.publication import Published, publish_star

HERE = Place("tables.py", 1)
START = datetime(2026, 4, 1, tzinfo=UTC)
EVENTS = Table(name="events", function=lambda: None, reads=(), place=HERE, partition_by=day("at"))  # type: ignore[arg-type, return-value]
MEMBERS = Table(name="members", function=lambda: None, reads=(), place=HERE)  # type: ignore[arg-type, return-value]
PLAIN = Dimension("dim_user", MEMBERS, key="user")
WITH_HISTORY = Dimension("dim_user", MEMBERS, key="user", since="since")
VIEWS = {
    "spent": "select city, sum(price) as price from fact_events join dim_user using (user_key) group by city"
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Row = tuple[Any, ...]


def declare(dimension: Dimension = PLAIN, **options: Any) -> Publication:
    fact = Fact("fact_events", EVENTS, time="at", references={"user": dimension}, **options)
    return Publication("shop", "warehouse", (fact,), VIEWS, lambda: VIEWS, HERE)


class Warehouse:
    """A lake with the tables `events` and `members`, and the database that they are published to."""

    def __init__(self, lake: Lake, url: str, query: Callable[..., list[Row]]) -> None:
        self.lake, self.url, self.query = lake, url, query

    def write_events(self, rows: list[Row], *, days: list[datetime] | None = None) -> None:
        schema = {"at": pl.Datetime("us", "UTC"), "user": pl.Int64, "price": pl.Float64, "note": pl.String}
        frame = pl.DataFrame(rows, schema, orient="row").to_arrow(compat_level=pl.CompatLevel.oldest())
        table = self.lake.ensure("events", frame.schema, (("at", "day"),))
        table.overwrite(
            frame, partitions=None if days is None else (("at", "day"), [(d - EPOCH).days for d in days])
        )

    def write_members(self, rows: list[Row], columns: dict[str, Any] | None = None) -> None:
        schema = columns or {"user": pl.Int64, "since": pl.Datetime("us", "UTC"), "city": pl.String}
        frame = pl.DataFrame(rows, schema, orient="row").to_arrow(compat_level=pl.CompatLevel.oldest())
        self.lake.ensure("members", frame.schema, exact=True).overwrite(frame)

    def publish(self, publication: Publication, *, url: str | None = None, code: str = "1") -> Published:
        at = {}
        for name in ("events", "members"):
            snapshot = self.lake.table(name).current_snapshot()
            assert snapshot is not None
            at[name] = snapshot.id
        return publish_star(self.lake, publication, url or self.url, at=at, code=code)

    def facts(self) -> list[Row]:
        """The facts with the columns of their dimension, sorted."""
        return sorted(
            self.query(
                "select at, price, note, d.user, d.city, date_key from shop.fact_events"
                " left join shop.dim_user d using (user_key)"
            ),
            key=str,
        )


@pytest.fixture
def warehouse(tmp_path: Path, empty_database: str) -> Iterator[Warehouse]:
    settings = make_settings(tmp_path, "shop", state=tmp_path / "state")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")

        def query(statement: str) -> list[Row]:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

        yield Warehouse(open_lake(settings), empty_database, query)


def plain_members(warehouse: Warehouse, rows: list[Row]) -> None:
    warehouse.write_members(rows, {"user": pl.Int64, "city": pl.String})


def date_key(at: datetime) -> int:
    return int(f"{at:%Y%m%d}")


def test_facts_refer_to_the_rows_of_their_dimensions(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern"), (2, ""), (3, None)])
    rows = [
        (START, 1, 1.5, 'a "quoted"\ntext, é'),
        (START + timedelta(days=1, microseconds=-1), 2, float("inf"), ""),
        (START + timedelta(days=2), None, None, None),
    ]
    warehouse.write_events(rows)
    assert warehouse.publish(declare()).facts == 3
    cities = {1: "Bern", 2: "", None: None}
    assert warehouse.facts() == sorted(
        [(at, price, note, user, cities[user], date_key(at)) for at, user, price, note in rows], key=str
    )
    assert warehouse.query("select city, price from shop.spent order by 1") == [
        ("", float("inf")),
        ("Bern", 1.5),
    ]
    days = warehouse.query("select date_key, year, quarter, month, day, weekday, is_weekend from shop.dim_date")
    assert sorted(days) == [(20260400 + n, 2026, 2, 4, n, n + 2, False) for n in (1, 2, 3)]
    constraints = (
        "select count(*) from pg_constraint where contype = 'f' and connamespace = 'shop'::regnamespace"
    )
    assert warehouse.query(constraints) == [(2,)]


def state_of(warehouse: Warehouse) -> list[Row]:
    """Which row is where in the tables: it changes with every write, even of equal values."""
    tables = ("fact_events", "dim_user", "dim_date", "headrace_publication")
    return [
        row for table in tables for row in warehouse.query(f"select ctid, xmin, t::text from shop.{table} t")
    ]


def test_a_repeated_publication_changes_nothing(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    before = state_of(warehouse)
    assert warehouse.publish(declare()) == Published(None, "was up to date")
    assert state_of(warehouse) == before


def test_a_late_day_replaces_exactly_its_facts(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern"), (2, "Chur")])
    second = START + timedelta(days=1)
    warehouse.write_events([(START, 1, 1.0, "a"), (second, 2, 2.0, "b")])
    warehouse.publish(declare())
    kept = warehouse.query("select ctid, xmin::text from shop.fact_events where note = 'b'")
    late = START - timedelta(days=2)
    warehouse.write_events([(late, 2, 5.0, "late"), (START, 1, 3.0, "new")], days=[late, START])
    assert warehouse.publish(declare()) == Published(2, "replaced 2 days of fact_events")
    assert [row[2] for row in warehouse.facts()] == ["late", "new", "b"]
    assert warehouse.query("select ctid, xmin::text from shop.fact_events where note = 'b'") == kept
    assert warehouse.query("select count(*) from shop.dim_date") == [(4,)]


def test_a_day_that_lost_its_facts_leaves_the_warehouse(warehouse: Warehouse) -> None:
    """What is published in steps is what is published at once: the dates are those of the facts left."""
    plain_members(warehouse, [(1, "Bern")])
    days = [START + timedelta(days=n) for n in range(4)]
    warehouse.write_events([(day, 1, 1.0, "a") for day in days])
    warehouse.publish(declare())
    for left in (days[1:3], []):
        warehouse.write_events([(day, 1, 1.0, "a") for day in left], days=days)
        warehouse.publish(declare())
        assert [row[0] for row in warehouse.facts()] == left
        dates = warehouse.query("select date_key from shop.dim_date order by 1")
        assert dates == [(date_key(day),) for day in left]


def test_a_changed_member_keeps_its_surrogate_key(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern"), (2, "Chur"), (3, "gone")])
    warehouse.write_events([(START, 1, 1.0, "a"), (START, 2, 2.0, "b")])
    warehouse.publish(declare())
    keys = dict(warehouse.query('select "user", user_key from shop.dim_user'))
    plain_members(warehouse, [(1, "Basel"), (2, "Chur"), (4, "new")])
    warehouse.publish(declare())
    after = {row[0]: row[1:] for row in warehouse.query('select "user", city, user_key from shop.dim_user')}
    assert after == {1: ("Basel", keys[1]), 2: ("Chur", keys[2]), 4: ("new", after[4][1])}
    assert after[4][1] not in keys.values()


def test_facts_without_a_member_are_refused_and_readers_keep_the_last_state(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    before = state_of(warehouse)
    warehouse.write_events([(START, 1, 1.0, "a"), (START, 7, 1.0, "b"), (START, 7, 1.0, "c")])
    with pytest.raises(
        Refused, match="2 facts have a user that dim_user does not have at their time, such as 7"
    ):
        warehouse.publish(declare())
    assert state_of(warehouse) == before
    warehouse.write_events([(START, 1, 1.0, "a")])
    plain_members(warehouse, [(2, "Chur")])
    with pytest.raises(Refused, match="have a user that dim_user does not have"):
        warehouse.publish(declare())
    assert state_of(warehouse) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, "a"), (1, "a")], r"dim_user has user=1 twice"),
        ([(None, "a")], "column user is null in 1 row of dim_user"),
    ],
)
def test_a_dimension_has_one_row_for_each_member(warehouse: Warehouse, rows: list[Row], message: str) -> None:
    plain_members(warehouse, rows)
    warehouse.write_events([])
    with pytest.raises(Refused, match=message):
        warehouse.publish(declare())


def state_at(members: list[Row], user: int, at: datetime) -> str | None:
    """The oracle of history: the city of the member's last row whose time is not after `at`."""
    before = [(since, city) for name, since, city in members if name == user and since <= at]
    return max(before)[1] if before else None


def test_history_holds_for_each_moment_what_the_last_state_said(warehouse: Warehouse) -> None:
    """Random states, late ones among them: after every publication each fact has the city that held at its
    time, and the periods of a member have no gaps and no overlaps."""
    generator = random.Random(11)
    members: list[Row] = [(user, START - timedelta(days=9), "first") for user in range(3)]
    used = {(row[0], row[1]) for row in members}
    events: list[Row] = []
    for _ in range(6):
        for _ in range(generator.randrange(4)):
            user, since = generator.randrange(3), START + timedelta(hours=generator.randrange(96))
            if (user, since) not in used:
                used.add((user, since))
                members.append((user, since, generator.choice("ABC")))
        if generator.random() < 0.5 and len(members) > 4:
            members.remove(generator.choice([row for row in members if row[2] != "first"]))
        for _ in range(5):
            at = START + timedelta(hours=generator.randrange(96))
            events.append((at, generator.randrange(3), 1.0, str(len(events))))
        generator.shuffle(members)
        warehouse.write_members(members)
        days = sorted({at.replace(hour=0) for at, *_ in events})
        warehouse.write_events(events, days=days)
        warehouse.publish(declare(WITH_HISTORY))
        assert warehouse.facts() == sorted(
            [
                (at, price, note, user, state_at(members, user, at), date_key(at))
                for at, user, price, note in events
            ],
            key=str,
        )
        periods = warehouse.query(
            'select "user", valid_from, valid_to, is_current, city from shop.dim_user order by 1, 2'
        )
        for (user, _, end, is_current, city), following in zip(periods, [*periods[1:], None], strict=True):
            same = following is not None and following[0] == user
            assert end == (following[1] if same and following else None)
            assert is_current == (end is None)
            assert not (same and following and following[4] == city)  # equal states are one period


def test_two_states_of_a_member_at_one_time_are_refused(warehouse: Warehouse) -> None:
    warehouse.write_events([])
    warehouse.write_members([(1, START, "A"), (1, START, "A")])
    warehouse.publish(declare(WITH_HISTORY))
    warehouse.write_members([(1, START, "A"), (1, START, "B")])
    with pytest.raises(Refused, match=r"dim_user has .* twice"):
        warehouse.publish(declare(WITH_HISTORY))


def test_new_columns_are_loaded_anew_and_readers_keep_their_rights(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare(columns=["price"]), code="1")
    role = f"reader_{warehouse.url.rpartition('_')[2]}"
    warehouse.query(f'create role "{role}"')
    try:
        warehouse.query(f'grant usage on schema shop to "{role}"')
        warehouse.query(f'grant select on shop.fact_events, shop.spent to "{role}"')
        assert warehouse.publish(declare(), code="2").what == "loaded all facts anew"
        warehouse.query(f'set role "{role}"')
        assert warehouse.query("select note from shop.fact_events") == [("a",)]
        assert warehouse.query("select * from shop.spent") == [("Bern", 1.0)]
        warehouse.query("reset role")
        warehouse.query("create view public.mine as select * from shop.fact_events")
        with pytest.raises(Refused, match=r"views read the old ones: public\.mine"):
            warehouse.publish(declare(), code="3")
    finally:
        warehouse.query("reset role")
        warehouse.query(f'drop owned by "{role}"')
        warehouse.query(f'drop role "{role}"')


def test_a_table_that_gains_loses_or_widens_a_column_is_loaded_anew(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    warehouse.write_members([(1, "Bern", 3)], {"user": pl.Int64, "city": pl.String, "rank": pl.Int32})
    assert warehouse.publish(declare()).what == "loaded all facts anew"
    assert warehouse.query("select city, rank from shop.dim_user") == [("Bern", 3)]
    large = 2**40
    warehouse.write_members([(1, "Bern", large)], {"user": pl.Int64, "city": pl.String, "rank": pl.Int64})
    warehouse.publish(declare())
    assert warehouse.query("select city, rank from shop.dim_user") == [("Bern", large)]
    plain_members(warehouse, [(1, "Basel")])
    warehouse.publish(declare())
    assert warehouse.query("select * from shop.dim_user") == [(1, 1, "Basel")]
    assert warehouse.publish(declare()).what == "was up to date"


def test_a_schema_of_somebody_else_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.query("create schema shop")
    warehouse.query("create table shop.precious (x int)")
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([])
    with pytest.raises(Refused, match="'shop' exists in PostgreSQL, and was not published"):
        warehouse.publish(declare())
    assert warehouse.query("select count(*) from shop.precious") == [(0,)]


def test_a_schema_that_another_project_publishes_is_left_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "other", "other", state=tmp_path / "other")
    other = Warehouse(open_lake(settings), warehouse.url, warehouse.query)
    for number, each in enumerate((warehouse, other)):
        plain_members(each, [(1, "Bern")])
        each.write_events([(START, 1, float(number), "a")])
    warehouse.publish(declare())
    before = state_of(warehouse)
    for code in ("1", "2"):
        with pytest.raises(Refused, match="project 'shop' publishes to the schema 'shop' of this database"):
            other.publish(declare(), code=code)
    assert state_of(warehouse) == before
    warehouse.query("drop schema shop cascade")
    other.publish(declare())
    assert [row[1] for row in warehouse.facts()] == [1.0]


def test_a_publication_of_an_earlier_headrace_becomes_the_projects_own(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    warehouse.query("alter table shop.headrace_publication drop column project")  # which it did not have
    warehouse.query("update shop.headrace_publication set digest = 'of an earlier layout'")
    assert warehouse.publish(declare()) == Published(1, "loaded all facts anew")
    assert warehouse.query("select distinct project from shop.headrace_publication") == [("shop",)]


def test_no_other_schema_is_touched(warehouse: Warehouse) -> None:
    """Not even one whose name begins like that of the publication: such a one was dropped."""
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    for name in ("shop_next", "shop_former"):
        warehouse.query(f"create schema {name}")
        warehouse.query(f"create table {name}.notes as select 1 as kept")
    for code in ("1", "2"):
        assert warehouse.publish(declare(), code=code).facts == 1
    schemas = "select nspname from pg_namespace where nspname like 'shop%' order by 1"
    assert warehouse.query(schemas) == [("shop",), ("shop_former",), ("shop_next",)]
    kept = "select * from shop_next.notes union all select * from shop_former.notes"
    assert warehouse.query(kept) == [(1,), (1,)]


def test_a_server_that_goes_away_in_the_midst_leaves_the_last_state(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    before = state_of(warehouse)
    rows = [(START + timedelta(seconds=n), 1, float(n), "x" * 50) for n in range(20_000)]
    warehouse.write_events(rows)
    port = int(warehouse.url.split(":")[-1].split("/")[0])
    with proxy_tcp(port) as proxy:
        url = warehouse.url.replace(f":{port}/", f":{proxy.port}/")
        for moment in (b'copy "staging_dim_user"', b'delete from "shop"."fact_events"', b"COMMIT"):
            proxy.cut_before = moment
            with pytest.raises(Unavailable, match="went away or cannot do it now"):
                warehouse.publish(declare(), url=url)
            assert not proxy.cut_before
            assert state_of(warehouse) == before
        proxy.cut_after = b"COMMIT"  # it is committed, and nobody hears of it
        with pytest.raises(Unavailable, match="went away or cannot do it now"):
            warehouse.publish(declare(), url=url)
        assert warehouse.publish(declare(), url=url) == Published(None, "was up to date")
    assert len(warehouse.facts()) == 20_000


@pytest.mark.parametrize(("code", "must_wait"), [("1", False), ("2", True)])
def test_a_reader_in_the_midst_sees_the_last_state_or_waits_for_the_next(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, code: str, must_wait: bool
) -> None:
    """New rows leave readers alone. A new layout keeps them waiting from the swap to the commit."""
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    warehouse.publish(declare())
    answers: list[Row] = []

    def read() -> None:
        with psycopg.connect(warehouse.url, autocommit=True) as connection:
            statement = "select count(*), sum(price), (select sum(price) from shop.spent) from shop.fact_events"
            answers.extend(connection.execute(statement))

    reader = threading.Thread(target=read)
    waiting = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%shop.spent%'"
    )
    waiting += " and datname = current_database() and pid <> pg_backend_pid()"

    def read_before_commit(point: str) -> None:
        if point == "publish.before_commit":
            reader.start()
            until(lambda: bool(answers) or warehouse.query(waiting) == [(1,)])

    monkeypatch.setattr(publication, "reach", read_before_commit)
    warehouse.write_events([(START, 1, 2.0, "b"), (START, 1, 3.0, "c")])
    warehouse.publish(declare(), code=code)
    reader.join()
    assert answers == [(2, 5.0, 5.0) if must_wait else (1, 1.0, 1.0)]


def test_texts_are_not_keys_of_numbers(warehouse: Warehouse) -> None:
    """As numbers `1` and `01` would be one member, and a fact of 1 two facts."""
    warehouse.write_members([("1", "A"), ("01", "B")], {"user": pl.String, "city": pl.String})
    warehouse.write_events([(START, 1, 1.0, "a")])
    with pytest.raises(ProjectError, match="'user' is Int64, and the key of dim_user is String"):
        warehouse.publish(declare())


def test_numbers_of_another_size_are_the_same_keys(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern"), (2**40, "large")])
    schema: dict[str, Any] = {
        "at": pl.Datetime("us", "UTC"),
        "user": pl.Int32,
        "price": pl.Float64,
        "note": pl.String,
    }
    rows = pl.DataFrame([(START, 1, 1.0, "a"), (START, None, 2.0, "b")], schema, orient="row")
    frame = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    warehouse.lake.ensure("events", frame.schema, (("at", "day"),)).overwrite(frame)
    warehouse.publish(declare())
    assert [row[2:5] for row in warehouse.facts()] == [("a", 1, "Bern"), ("b", None, None)]


def test_a_zero_byte_stops_no_publication(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    """JSON has it, PostgreSQL's texts have not."""
    warehouse.write_members([("1\0", "\0Bern"), ("2", "Rome")], {"user": pl.String, "city": pl.String})
    schema = {"at": pl.Datetime("us", "UTC"), "user": pl.String, "price": pl.Float64, "note": pl.String}
    rows = [(START, "1\0", 1.0, "a\0b\0"), (START, "2", 2.0, "")]
    frame = pl.DataFrame(rows, schema, orient="row").to_arrow(compat_level=pl.CompatLevel.oldest())
    warehouse.lake.ensure("events", frame.schema, (("at", "day"),)).overwrite(frame)
    for _ in range(2):
        warehouse.publish(declare())
        facts = [(price, note, user, city) for _, price, note, user, city, _ in warehouse.facts()]
        assert facts == [(1.0, "a\ufffdb\ufffd", "1\ufffd", "\ufffdBern"), (2.0, "", "2", "Rome")]
    warnings = [record.getMessage() for record in caplog.records]
    message = r'"shop_\w+"."fact_events": 2 zero bytes, which PostgreSQL cannot store, are published as \\ufffd'
    assert any(re.fullmatch(message, warning) for warning in warnings), warnings


def test_what_cannot_be_published_is_named(warehouse: Warehouse) -> None:
    plain_members(warehouse, [(1, "Bern")])
    warehouse.write_events([(START, 1, 1.0, "a")])
    with pytest.raises(ProjectError, match="there is no column 'nope'"):
        warehouse.publish(declare(columns=["nope"]))
    no_time = Fact("fact_events", EVENTS, time="when", references={"user": PLAIN})
    with pytest.raises(ProjectError, match="there is no column 'when'"):
        warehouse.publish(attrs.evolve(declare(), facts=(no_time,)))
    with pytest.raises(ProjectError, match="published to PostgreSQL, not to sqlite"):
        warehouse.publish(declare(), url="sqlite:///x.db")
    with pytest.raises(Unavailable, match="went away"):
        warehouse.publish(declare(), url="postgresql://127.0.0.1:1/x")
