"""Tables of database queries, beside the rows that the database itself returns."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import psycopg
import pytest
from tests.flows.builds import run_build
from tests.tiny import write

from headrace.config.settings import Settings, load_settings
from headrace.declare.query import query
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError, Refused, Unavailable
from headrace.kernel.run import RunEvent, record_with
from headrace.kernel.secrets import clean_text
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.projects.project import Project, load_project
from headrace.tables.queries import QueryBuild, build_query

SQL = "select * from orders"


class Shop:
    """A project and the database that it reads."""

    def __init__(self, settings: Settings, execute: Callable[..., list[tuple[Any, ...]]]) -> None:
        self.project: Project = load_project(settings)
        self.lake: Lake = open_lake(settings)
        self.execute = execute

    def build(self, declared: Table, code: str = "1") -> QueryBuild:
        return build_query(self.project, self.lake, declared, code=code)

    def rows(self, declared: Table) -> list[tuple[Any, ...]]:
        rows = self.lake.table(declared.name).scan()
        return sorted(rows.select(sorted(rows.collect_schema().names())).collect().rows(), key=str)

    def oracle(self) -> list[tuple[Any, ...]]:
        return sorted(self.execute("select id, note, version from orders"), key=str)


def project_with(tmp_path: Path, address: str) -> Settings:
    root = write(tmp_path / "project", "")
    with (root / "headrace.toml").open("a") as file:
        file.write(f'[profile.local]\ndatabases = {{ shop = "{address}" }}\n')
    return load_settings(root)


class Runs:
    """Collects the events of the runs."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        self.events.append(event)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Shop]:
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as connection:
        settings = project_with(tmp_path, f"sqlite://{tmp_path / 'shop.db'}")
        yield Shop(settings, lambda sql, *values: connection.execute(sql, values).fetchall())


@pytest.fixture
def postgresql(tmp_path: Path, empty_database: str) -> Iterator[Shop]:
    with psycopg.connect(empty_database, autocommit=True) as connection:

        def execute(sql: str, *values: Any) -> list[tuple[Any, ...]]:
            cursor = connection.execute(sql.replace("?", "%s"), values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

        yield Shop(project_with(tmp_path, empty_database), execute)


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest) -> Shop:
    shop: Shop = request.getfixturevalue(request.param)
    shop.execute("create table orders (id bigint, version bigint, note text)")
    return shop


def test_all_rows_are_read_and_written_only_if_they_differ(shop: Shop) -> None:
    orders = query("orders", SQL, database="shop")
    assert shop.build(orders).rows == 0
    shop.execute("insert into orders values (1, 1, 'a'), (2, null, ''), (1, 1, 'a')")
    first = shop.build(orders)
    assert shop.rows(orders) == shop.oracle()
    assert shop.build(orders) == QueryBuild(first.snapshot, 3, "read 3 rows, and none has changed")
    shop.execute("update orders set note = 'b' where id = 2")
    assert shop.build(orders).snapshot != first.snapshot
    shop.execute("delete from orders")
    assert shop.build(orders).rows == 0


def test_a_query_is_one_dataset_whatever_its_text(sqlite: Shop) -> None:
    sqlite.execute("create table orders (id integer, total real)")
    runs = Runs()
    with record_with(runs):
        for sql in (SQL, "select id from orders"):
            sqlite.build(query("orders", sql, database="shop"))
    done = [event for event in runs.events if event.outcome == "COMPLETE"]
    assert [list(event.run.outputs[0].facts["schema"]) for event in done] == [["id", "total"], ["id", "total"]]
    read = [event.run.inputs for event in done]
    assert [[(source.name, source.facts) for source in inputs] for inputs in read] == [
        [("shop.orders", {"sql": SQL})],
        [("shop.orders", {"sql": "select id from orders"})],
    ]


def test_rows_from_the_cursor_on_replace_those_of_the_same_range(shop: Shop) -> None:
    orders = query("orders", SQL, database="shop", cursor="id", overlap=2)
    shop.execute("insert into orders values (1, 1, 'a'), (5, 1, 'b'), (5, 2, 'c')")
    shop.build(orders)
    shop.execute("insert into orders values (5, 3, 'equal'), (4, 1, 'late'), (6, 1, 'new'), (2, 1, 'too late')")
    shop.execute("delete from orders where note in ('a', 'c')")
    assert shop.build(orders).what == "read 4 rows from id 3 on"
    assert shop.rows(orders) == [(1, "a", 1), (4, "late", 1), (5, "b", 1), (5, "equal", 3), (6, "new", 1)]
    before = shop.build(orders)
    assert before.what == "read 4 rows from id 4 on, and none has changed"
    assert shop.build(orders, code="2").what == "read all 5 rows"
    assert shop.rows(orders) == shop.oracle()


@pytest.mark.parametrize("end", [";", " -- the newest", "\n;\n"])
def test_a_query_may_end_with_a_semicolon_or_a_comment(shop: Shop, end: str) -> None:
    orders = query("orders", f"{SQL}{end}", database="shop", cursor="id", overlap=0)
    shop.execute("insert into orders values (1, 1, 'a')")
    shop.build(orders)
    shop.execute("insert into orders values (2, 1, 'b')")
    assert shop.build(orders).what == "read 2 rows from id 1 on"
    assert shop.rows(orders) == shop.oracle()


def test_a_changed_row_replaces_the_row_of_its_key(shop: Shop) -> None:
    orders = query("orders", SQL, database="shop", cursor="version", overlap=0, key="id")
    generator = random.Random(7)
    version = 0
    for _ in range(12):
        for _ in range(generator.randrange(4)):
            version += generator.randrange(2)
            key = generator.randrange(5)
            shop.execute("delete from orders where id = ?", key)
            shop.execute("insert into orders values (?, ?, ?)", key, version, str(generator.random()))
        shop.build(orders)
        assert shop.rows(orders) == shop.oracle()


def test_a_row_without_a_cursor_and_a_key_that_is_there_twice_are_refused(shop: Shop) -> None:
    shop.execute("insert into orders values (1, 1, 'a'), (1, 2, 'b')")
    with pytest.raises(Refused, match=r"two rows of the query have the key id=1"):
        shop.build(query("orders", SQL, database="shop", cursor="version", overlap=0, key="id"))
    orders = query("orders", SQL, database="shop", cursor="version", overlap=0)
    shop.build(orders)
    shop.execute("insert into orders values (3, null, 'c')")
    with pytest.raises(Refused, match="column version is null in 1 row of the query"):
        shop.build(orders)
    assert len(shop.rows(orders)) == 2


def test_a_numeric_has_the_digits_that_its_declaration_allows(postgresql: Shop) -> None:
    postgresql.execute(
        "create table orders (large numeric(3, -2), small numeric(1, 2), whole numeric(5), wide numeric(39, 1))"
    )
    postgresql.execute("insert into orders values (99949, -0.09, 12345, 1.5)")
    postgresql.build(query("orders", SQL, database="shop"))
    rows = postgresql.lake.table("orders").scan().collect()
    assert rows.rows() == [(Decimal(99900), Decimal("-0.09"), Decimal(12345), "1.5")]
    assert list(rows.dtypes) == [pl.Decimal(5, 0), pl.Decimal(2, 2), pl.Decimal(5, 0), pl.String]


def test_postgres_types_keep_their_values(postgresql: Shop) -> None:
    postgresql.execute(
        "create table orders (total numeric(12, 2), at timestamptz, local timestamp, day date, code uuid,"
        " extra jsonb, ok boolean, big bigint, small smallint, part real, amount numeric)"
    )
    code = "0f8fad5b-d9cb-469f-a165-70867728950e"
    at = datetime(2026, 4, 3, 10, 0, 0, 123456, tzinfo=UTC)
    postgresql.execute(
        "insert into orders values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        Decimal("9999999999.99"), at, at.replace(tzinfo=None), date(2026, 4, 3), code,
        '{"a": 1}', True, 2**63 - 1, -3, 0.5, Decimal("0.1"),
    )  # fmt: skip
    orders = query("orders", SQL, database="shop", schema={"amount": pl.Decimal(9, 3)})
    postgresql.build(orders)
    ((*values, amount),) = postgresql.lake.table("orders").scan().collect().rows()
    assert values == [
        Decimal("9999999999.99"), at, at.replace(tzinfo=None), date(2026, 4, 3), code,
        '{"a": 1}', True, 2**63 - 1, -3, 0.5,
    ]  # fmt: skip
    assert amount == Decimal("0.1")
    for type_, message in (("money", "is of the type money"), ("interval", "is of the type interval")):
        with pytest.raises(ProjectError, match=message):
            postgresql.build(query("orders", f"select null::{type_} as x", database="shop"))


def test_a_time_is_a_cursor_and_late_commits_are_read_within_the_overlap(postgresql: Shop) -> None:
    postgresql.execute("create table orders (id int, at timestamptz)")
    orders = query("orders", SQL, database="shop", cursor="at", overlap="10m")
    noon = datetime(2026, 4, 3, 12, tzinfo=UTC)
    postgresql.execute("insert into orders values (1, ?)", noon)
    postgresql.build(orders)
    postgresql.execute("insert into orders values (2, ?), (3, ?)", noon - timedelta(minutes=10), noon)
    postgresql.build(orders)
    assert [row[1] for row in postgresql.rows(orders)] == [2, 1, 3]
    with pytest.raises(ProjectError, match="overlap=5 cannot be taken from at"):
        postgresql.build(query("orders", SQL, database="shop", cursor="at", overlap=5))


@pytest.mark.parametrize(
    ("values", "types"),
    [([2**53 + 1, 1.5], "integer and real"), (["x", 1.5], "text and real"), ([1, b"x"], "integer and blob")],
)
def test_sqlite_values_of_several_types_are_refused(sqlite: Shop, values: list[Any], types: str) -> None:
    sqlite.execute("create table orders (a)")
    for value in (None, *values):
        sqlite.execute("insert into orders values (?)", value)
    with pytest.raises(
        ProjectError, match=f"column 'a' of the query has values of the types {types}"
    ) as caught:
        sqlite.build(query("orders", SQL, database="shop"))
    wanted = "cast(a as integer) or as real" if types == "integer and real" else "cast(a as text)"
    assert wanted in (caught.value.remedy or "")


def test_sqlite_columns_that_begin_with_nulls_keep_their_values(sqlite: Shop) -> None:
    sqlite.execute("create table orders (a, b, c)")
    sqlite.execute(
        "insert into orders with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000)"
        " select null, null, null from n"
    )
    sqlite.execute("insert into orders values ('0870', 0.1, null)")
    orders = query("orders", SQL, database="shop")
    sqlite.build(orders)
    rows = sqlite.lake.table("orders").scan().collect()
    assert rows.drop_nulls("a").rows() == [("0870", 0.1, None)]
    assert (len(rows), rows["c"].dtype) == (3001, pl.String)


def test_declared_types_are_read_exactly_or_refused(sqlite: Shop) -> None:
    sqlite.execute("create table orders (day text, ok integer, total text)")
    sqlite.execute("insert into orders values ('2026-04-03', 1, '1.50'), (null, 0, null)")
    types = {"day": date, "ok": bool, "total": pl.Decimal(9, 2)}
    orders = query("orders", SQL, database="shop", schema=types)
    sqlite.build(orders)
    assert sqlite.lake.table("orders").scan().collect().rows() == [
        (date(2026, 4, 3), True, Decimal("1.5")),
        (None, False, None),
    ]
    sqlite.execute("insert into orders values ('03/04/2026', 7, '1')")
    for column, value in (("day", "'03/04/2026'"), ("ok", "7")):
        declared = query("orders", SQL, database="shop", schema={column: types[column]})
        with pytest.raises(ProjectError, match=f"column '{column}' is declared as .*, and {value} is not"):
            sqlite.build(declared)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("'infinity'::timestamptz", "infinite, or outside of the years 1 to 9999"),
        ("'-infinity'::timestamp", "infinite, or outside of the years 1 to 9999"),
        ("'infinity'::date", "infinite, or outside of the years 1 to 9999"),
        ("'0044-03-15 BC'::date", "infinite, or outside of the years 1 to 9999"),
        ("'{2026-01-01,10000-01-01}'::date[]", "infinite, or outside of the years 1 to 9999"),
        ("'24:00:00'::time", "outside of a day: 24:00:00"),
        ("'NaN'::numeric(10, 2)", r"that decimal128\(10, 2\) cannot hold"),
        ("'4294967295'::oid", "is of the type oid"),
        ("'12:00+05'::timetz", "is of the type timetz"),
        ("'192.168.0.1'::inet", "is of the type inet"),
        ("'{0.1}'::numeric[]", "is of the type _numeric"),
        ("'{1.5}'::money[]", "is of the type _money"),
    ],
)
def test_values_without_an_equal_are_refused_with_their_column(
    postgresql: Shop, value: str, message: str
) -> None:
    with pytest.raises(ProjectError, match=f"column 'x' of the query .*{message}"):
        postgresql.build(query("orders", f"select {value} as x", database="shop"))
    as_text = query("orders", f"select cast({value} as text) as x", database="shop")
    postgresql.build(as_text)
    assert postgresql.rows(as_text) == postgresql.execute(as_text.query.sql)  # type: ignore[union-attr]


def test_the_limits_of_dates_and_times_are_read(postgresql: Shop) -> None:
    select = (
        "select '0001-01-01'::timestamp as a, '9999-12-31 23:59:59.999999'::timestamptz as b,"
        " '0001-01-01'::date as c, '9999-12-31'::date as d, '23:59:59.999999'::time as e, '{}'::date[] as f"
    )
    orders = query("orders", select, database="shop")
    postgresql.build(orders)
    assert postgresql.rows(orders) == [
        (datetime.min, datetime.max.replace(tzinfo=UTC), date.min, date.max, time.max, [])
    ]


def test_a_changed_column_is_read_whole(postgresql: Shop) -> None:
    """Its first row does not come again by its cursor."""
    postgresql.execute("create table orders (id integer, version integer, note integer, gone text)")
    postgresql.execute("insert into orders values (1, 1, 1, 'x')")
    orders = query("orders", SQL, database="shop", cursor="version", overlap=0)
    postgresql.build(orders)
    for version, (change, columns) in enumerate(
        [
            ("alter note type bigint", "id, version, note"),
            ("add column more text default 'y'", "id, version, note"),
            ("drop column gone", "id, version, note"),
        ],
        2,
    ):
        postgresql.execute(f"alter table orders {change}")
        postgresql.execute(f"insert into orders ({columns}) values ({version}, {version}, {2**40})")
        assert postgresql.build(orders).what == f"read all {version} rows"
        stored = postgresql.lake.table("orders").scan().collect()
        names = ", ".join(stored.columns)
        assert sorted(stored.rows()) == sorted(postgresql.execute(f"select {names} from orders"))
    assert stored.columns == ["id", "version", "note", "more"]
    assert "none has changed" in postgresql.build(orders).what


@pytest.mark.parametrize("value", [5, 0.5, "abc", b"\xff"])
def test_a_column_that_was_null_so_far_has_the_type_of_its_first_value(sqlite: Shop, value: Any) -> None:
    sqlite.execute("create table orders (id, note, version)")
    orders = query("orders", SQL, database="shop", cursor="version", overlap=0)
    for version, note in enumerate([None, value, None, value]):
        sqlite.execute("insert into orders values (?, ?, ?)", version, note, version)
        sqlite.build(orders)
        assert sqlite.rows(orders) == sqlite.oracle()


def test_a_column_of_numbers_does_not_become_one_of_texts(sqlite: Shop) -> None:
    sqlite.execute("create table orders (id, note, version)")
    orders = query("orders", SQL, database="shop", cursor="version", overlap=0)
    for version, note in enumerate(["0870", None]):
        sqlite.execute("insert into orders values (?, ?, ?)", version, note, version)
        sqlite.build(orders)
    sqlite.execute("insert into orders values (2, 870, 2)")
    with pytest.raises(ProjectError, match="'note' of the query has values of the types text and integer"):
        sqlite.build(orders)
    assert [row[1] for row in sqlite.rows(orders)] == ["0870", None]


@pytest.mark.parametrize("address", ["mylite+{}", "mylite+file:{}", "mylite+file:{}?mode=ro"])
def test_an_address_names_any_driver(
    sqlite: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The driver gets what follows the `+`: a path, or an address with a scheme of its own."""
    package = tmp_path / "adbc_driver_mylite"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "dbapi.py").write_text("from adbc_driver_sqlite.dbapi import connect\n")
    monkeypatch.syspath_prepend(tmp_path)
    sqlite.execute("create table orders (id integer)")
    sqlite.execute("insert into orders values (1), (2)")
    named = Shop(project_with(tmp_path / "named", address.format(tmp_path / "shop.db")), sqlite.execute)
    orders = query("orders", SQL, database="shop")
    named.build(orders)
    assert named.rows(orders) == [(1,), (2,)]


def test_a_database_that_cannot_be_read_is_told_apart_from_a_wrong_query(sqlite: Shop, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"refuses the query: .*no such table"):
        sqlite.build(query("orders", "select * from nowhere", database="shop"))
    with pytest.raises(ProjectError, match="database 'other' has no address"):
        sqlite.build(query("orders", SQL, database="other"))
    away = Shop(project_with(tmp_path / "away", "postgresql://127.0.0.1:1/shop"), sqlite.execute)
    with pytest.raises(Unavailable, match="the database cannot be read"):
        away.build(query("orders", SQL, database="shop"))
    unknown = Shop(project_with(tmp_path / "unknown", "nosuchdb://x"), sqlite.execute)
    with pytest.raises(Unavailable, match="needs the package adbc_driver_nosuchdb"):
        unknown.build(query("orders", SQL, database="shop"))


def test_a_password_in_an_address_is_in_no_error(
    sqlite: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shop_at(address: str, name: str) -> Shop:
        monkeypatch.setenv("HEADRACE_DATABASES", msgspec.json.encode({"shop": address}).decode())
        return Shop(load_settings(write(tmp_path / name, "")), sqlite.execute)

    for number, address in enumerate(
        ["snowflake+ada:pa/ss%40word@account/shop", "nosuch+sa:pa/ss%40word@tcp(host)"]
    ):
        shop = shop_at(address, str(number))
        with pytest.raises(Unavailable, match="needs the package") as caught:
            shop.build(query("orders", SQL, database="shop"))
        assert "pa/ss" not in str(caught.value)
        assert clean_text("the driver says: pa/ss@word is wrong") == "the driver says: *** is wrong"
    shop = shop_at("postgresql://ada:pa%zzs@host/db", "encoded")
    with pytest.raises(Unavailable, match=r"percent-encoded token: \"\*\*\*\""):
        shop.build(query("orders", SQL, database="shop"))
    for number, address in enumerate(["postgresql://ada:pa/ss@host/db", "postgresql://ada:5pa?ss@host/db"]):
        shop = shop_at(address, f"postgresql{number}")
        with pytest.raises(ProjectError, match="has a sign that must be encoded") as refused:
            shop.build(query("orders", SQL, database="shop"))
        assert "ss@" not in str(refused.value)


BUILD = """
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.declare.query import query
from headrace.lake import open
from headrace.projects.project import load_project
from headrace.tables.queries import build_query

settings = load_settings(Path.cwd())
orders = query("orders", "select * from orders", database="shop", cursor="id", overlap=0)
build_query(load_project(settings), open(settings), orders, code="1")
"""


@pytest.mark.parametrize("fault", ["lake.before_commit", "lake.after_commit"])
def test_a_killed_build_reads_every_row_once(sqlite: Shop, fault: str) -> None:
    orders = query("orders", SQL, database="shop", cursor="id", overlap=0)
    sqlite.execute("create table orders (id integer)")
    sqlite.execute("insert into orders values (1), (2)")
    sqlite.build(orders)
    sqlite.execute("insert into orders values (2), (3)")
    killed = subprocess.run(
        [sys.executable, "-c", BUILD],
        cwd=sqlite.project.settings.root,
        env={**os.environ, "HEADRACE_FAULT": fault},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    sqlite.build(orders)
    assert sqlite.rows(orders) == [(1,), (2,), (2,), (3,)]


TABLES = """
from headrace import query, table

orders = query("orders", "select * from orders", database="shop")

@table(reads=orders)
def total(orders):
    return orders.select("id").sum()
"""


def test_a_build_reads_the_database_and_makes_what_follows_from_its_rows(sqlite: Shop) -> None:
    settings = sqlite.project.settings
    (settings.root / "tiny" / "tables.py").write_text(TABLES)
    sqlite.execute("create table orders (id integer)")
    sqlite.execute("insert into orders values (1), (2)")
    assert run_build(settings) == ["table-orders", "table-total"]
    sqlite.execute("insert into orders values (5)")
    assert run_build(settings) == ["table-orders", "table-total"]
    assert sqlite.lake.table("total").scan().collect().item() == 8
