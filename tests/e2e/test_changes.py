"""Changes of a database table reach its changelog and its current rows by Debezium, on real servers.

One way is PostgreSQL → Kafka Connect → broker → ingest, the other PostgreSQL → pydbzengine → embedded log →
ingest. Processes are killed and started again meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from services.connect import connect
from services.kafka import Broker, broker
from services.postgres import Postgres, postgres
from tests.docs.blocks import Reader
from tests.until import until

from headrace import lake, log
from headrace.api import project as open_project
from headrace.config.settings import Settings, load_settings
from headrace.flows.events.ingest import ingest
from headrace.workspace import Workspace

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
MODULE = """
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from headrace import Struct, changes

@changes(topic="bank.public.accounts", key=["id"])
class Account(Struct):
    id: int
    owner: str
    balance: Decimal
    opened: datetime | None = None
    local: datetime | None = None
    day: date | None = None
    active: bool | None = None
    tags: list[str] | None = None
    counts: list[int] | None = None
    facts: dict[str, Any] | None = None
    mood: Literal["ok", "bad"] | None = None
    data: bytes | None = None
    uid: UUID | None = None
    long: str | None = None
    half: float | None = None
"""
TABLE = """
CREATE TABLE accounts (
  id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(38, 9) NOT NULL, opened timestamptz(6),
  local timestamp(3), day date, active boolean, tags text[], counts int[], facts jsonb, mood mood, data bytea,
  uid uuid, long text, half double precision)
"""
COLUMNS = (
    "id",
    "owner",
    "balance",
    "opened",
    "local",
    "day",
    "active",
    "tags",
    "counts",
    "facts",
    "mood",
    "data",
    "uid",
    "long",
    "half",
)
TIMEOUT = 240.0  # seconds


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    # PostgreSQL does not run as root, and only this user may enter pytest's folder.
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder)) as instance:
        yield instance


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("kafka")) as instance:
        yield instance


class Bank:
    """A project with its own database; makes changes there and reads their results."""

    def __init__(self, root: Path, server: Postgres, name: str, profile: str) -> None:
        (root / name).mkdir(parents=True)
        (root / "headrace.toml").write_text(f'[project]\nname = "{name}"\n[profile.local]\n{profile}\n')
        (root / name / "__init__.py").write_text("")
        (root / name / "tables.py").write_text(MODULE)
        with psycopg.connect(server.url, autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        self.url = server.url.removesuffix("/postgres") + f"/{name}"
        self.address = {**server.environment, "PGDATABASE": name, "PGPASSWORD": "only-in-the-environment"}
        self.settings: Settings = load_settings(root)
        self.changes = 0
        self._rng = random.Random(1)
        self._next = 1
        self.db = psycopg.connect(self.url, autocommit=True)
        self.db.execute("CREATE TYPE mood AS ENUM ('ok', 'bad')")
        self.db.execute(TABLE)
        # The transactions of this second client overlap with those of the first.
        self.other = psycopg.connect(self.url)

    def close(self) -> None:
        self.other.close()
        self.db.close()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace.cli.main", *arguments],
            cwd=self.settings.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.address},
        )

    def call(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        return output

    def change(self, times: int) -> None:
        """Insert, update and delete rows, some of them in overlapping transactions."""
        for _ in range(times):
            first = self._next
            self._next += 30
            self.execute(self.db, f"INSERT INTO accounts {ROWS} FROM generate_series({first}, {first + 29}) i")
            self.execute(self.other, "UPDATE accounts SET balance = balance + 0.000000001 WHERE id % 7 = 0")
            self.execute(self.db, "UPDATE accounts SET owner = owner || '.' WHERE id % 5 = 1 AND id % 7 > 0")
            self.execute(self.other, f"INSERT INTO accounts {ROWS} FROM generate_series({-first}, {-first}) i")
            self.move_rows(first)
            remainder = self._rng.randrange(2, 6)
            self.execute(self.db, f"DELETE FROM accounts WHERE id % 7 = {remainder} AND id > 0 AND id % 3 = 0")
            self.other.commit()
        repeated = self._rng.randrange(1, self._next)
        self.execute(self.db, f"DELETE FROM accounts WHERE id = {repeated}")
        self.execute(self.db, f"INSERT INTO accounts {ROWS} FROM generate_series({repeated}, {repeated}) i")

    def move_rows(self, first: int) -> None:
        """Gives some new rows another key: each a delete and an insert, which lacks the long value."""
        moved = self.db.execute(
            "UPDATE accounts SET id = id + 1000000"
            f" WHERE id BETWEEN {first} AND {first + 29} AND id % 11 = 0 AND id % 7 > 0"
        )
        self.changes += 2 * moved.rowcount

    def execute(self, db: psycopg.Connection, statement: str) -> None:
        self.changes += db.execute(statement).rowcount

    def select(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as db:
            db.execute("SET timezone = 'UTC'")
            return db.execute(f"SELECT {', '.join(COLUMNS)} FROM accounts ORDER BY id").fetchall()

    def now(self) -> datetime:
        with psycopg.connect(self.url) as db:
            row = db.execute("SELECT clock_timestamp()").fetchone()
            assert row is not None
            return row[0]

    def changelog(self) -> pl.DataFrame:
        tables = lake.open(self.settings)
        if not tables.table_exists("bank_public_accounts"):
            return pl.DataFrame(schema={"_valid": pl.Boolean, "_op": pl.String})
        return tables.table("bank_public_accounts").scan().collect()

    def count_good(self, ops: str = "cud") -> int:
        return self.changelog().filter(pl.col("_valid"), pl.col("_op").is_in(list(ops))).height

    def count_on_log(self) -> int:
        opened = log.open(self.settings.log.url)
        try:
            exists = "bank.public.accounts" in opened.topics()
            return sum(opened.end("bank.public.accounts").values()) if exists else 0
        finally:
            opened.close()

    def current(self) -> list[tuple[Any, ...]]:
        open_project(self.settings.root).build()
        return comparable_rows(
            open_project(self.settings.root).table("bank_public_accounts_current").to_polars()
        )


ROWS = """(id, owner, balance, opened, local, day, active, tags, counts, facts, mood, data, uid, long, half)
SELECT i, 'o' || i, i + 0.123456789, timestamptz '2026-01-01 00:00:00.000001+02' + i * interval '1 hour',
  timestamp '2026-01-01' + i * interval '1 ms', date '2026-01-01' + i::int, i % 2 = 0, ARRAY['a', 'b' || i],
  ARRAY[i, 2], jsonb_build_object('n', i), (ARRAY['ok', 'bad'])[1 + i % 2]::mood,
  decode('00ff', 'hex'), gen_random_uuid(),
  CASE WHEN i % 11 = 0 THEN (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 200)) END,
  i / 3.0"""


def comparable_rows(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Rows of the lake, in the form that is compared with the database's rows."""
    ordered = rows.sort("id").with_columns(pl.col("local").dt.replace_time_zone(None)).select(COLUMNS)
    results = []
    for row in ordered.to_dicts():
        row["facts"] = None if row["facts"] is None else json.loads(row["facts"])
        results.append(tuple(row.values()))
    return results


def as_lake_values(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows of the database, with the types that the lake stores as text as text."""
    uid, balance = COLUMNS.index("uid"), COLUMNS.index("balance")
    return [
        tuple(
            str(value) if column in (uid, balance) and value is not None else value
            for column, value in enumerate(row)
        )
        for row in rows
    ]


def wait_for(condition: Callable[[], bool], name: str, *processes: subprocess.Popen[str]) -> None:
    """Waits until a condition holds; fails if a process that should bring it about has ended."""

    def is_met() -> bool:
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        return condition()

    until(is_met, f"{name} did not arrive", TIMEOUT)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_changes_reach_the_lake_through_kafka_connect(server: Postgres, kafka: Broker, tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank", server, "by_connect", f'log = "{kafka.url}"')
    bank.change(2)
    before = bank.changes  # the snapshot reads these
    exported = bank.call("export", "debezium")
    assert "only-in-the-environment" not in exported
    connector = json.loads(exported)
    worker = tmp_path / "connect"
    worker.mkdir()
    address = f"127.0.0.1:{kafka.port}"
    try:
        with connect(worker, address, bank.address) as running:
            reader = Reader(bank.settings.root, addresses={"http://connect:8083": running.url}, **bank.address)
            for page in ("export", "changes"):
                reader.follow(GUIDE / f"{page}.md", "connect")
            wait_for(lambda: bank.count_on_log() >= len(bank.select()), "the snapshot on the broker")
            bank.change(15)
            ingesting = bank.start("ingest")
            wait_for(lambda: bank.count_good() > 500, "some changes in the lake", ingesting)
            kill(ingesting)
            bank.change(15)
            os.kill(running.pid, signal.SIGKILL)
        bank.change(5)
        ingesting = bank.start("ingest")
        with connect(worker, address, bank.address) as running:
            running.start(connector)
            wait_for(lambda: bank.count_good() == bank.changes - before, "every change in the lake", ingesting)
            instant, rows_at_instant = bank.now(), bank.select()
            bank.db.execute("ALTER TABLE accounts ADD COLUMN branch text DEFAULT 'main'")
            # This transaction stays open while a new snapshot is taken.
            bank.execute(bank.other, "UPDATE accounts SET owner = 'meanwhile' WHERE id > 100 AND id % 2 = 0")
            running.stop(connector["name"])
            snapshot_rows = bank.count_good("r")
            running.start({**connector, "config": {**connector["config"], "snapshot.mode": "always"}})
            wait_for(lambda: bank.count_good("r") > snapshot_rows, "the snapshot's rows in the lake", ingesting)
            bank.other.commit()
            module = bank.settings.root / "by_connect" / "tables.py"
            module.write_text(module.read_text() + '    branch: str = "main"\n')
            kill(ingesting)
            ingesting = bank.start("ingest")
            bank.change(5)
            wait_for(lambda: bank.count_good() == bank.changes - before, "every change in the lake", ingesting)
        ingesting.terminate()
        ingesting.communicate()
    finally:
        bank.close()
    assert bank.changes > 8000
    table = bank.changelog()
    refused = table.filter(~pl.col("_valid")).group_by("_code").len().to_dict(as_series=False)
    assert refused["_code"] in ([], ["duplicate"]), refused
    changes = table.filter("_valid", pl.col("_op") != "r")
    assert changes.select("id", "_lsn", "_op").is_unique().all()
    rows = bank.select()
    assert len(rows) > 300
    assert bank.current() == as_lake_values(rows)
    assert comparable_rows(
        open_project(bank.settings.root).as_of("bank.public.accounts", instant)
    ) == as_lake_values(rows_at_instant)
    current = open_project(bank.settings.root).table("bank_public_accounts_current").to_polars()
    assert set(current["branch"].drop_nulls()) == {"main"}
    # These changes came before the column was declared.
    assert table["_extra"].drop_nulls().unique().to_list() == ['{"branch":"main"}']


def test_changes_reach_the_lake_through_the_embedded_engine(server: Postgres, tmp_path: Path) -> None:
    pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    bank = Bank(tmp_path / "bank", server, "embedded", "")
    bank.change(1)
    before, row_count = bank.changes, len(bank.select())
    capture = bank.start("capture")
    try:
        wait_for(lambda: bank.count_on_log() >= row_count, "the snapshot on the log", capture)
        bank.change(4)
        wait_for(lambda: bank.count_on_log() > row_count + 50, "some changes on the log", capture)
        kill(capture)
        bank.change(4)
        bank.db.execute("TRUNCATE accounts")
        bank.change(1)
        capture = bank.start("capture")

        def has_every_change() -> bool:
            ingest(Workspace(bank.settings), until_end=True)
            return bank.count_good() == bank.changes - before

        wait_for(has_every_change, "every change in the lake", capture)
        capture.terminate()
        output = capture.communicate(timeout=300)[0]
        assert capture.returncode == 0, output
        assert "bank.public.accounts" in output
    finally:
        capture.kill()
        capture.communicate()
        bank.close()
    assert bank.count_good("t") == 1
    moved = bank.changelog().filter(pl.col("_op") == "c", pl.col("_unchanged").list.len() > 0)
    assert set(moved["_unchanged"].explode()) == {"long"}
    assert bank.current() == as_lake_values(bank.select())


def test_the_page_on_changes_works_as_it_is_written(server: Postgres, tmp_path: Path) -> None:
    """Its way without Kafka Connect; the other one is followed above."""
    pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute("CREATE DATABASE customers")
    with psycopg.connect(server.url.removesuffix("/postgres") + "/customers", autocommit=True) as db:
        db.execute(
            "CREATE TABLE customers (id int PRIMARY KEY, name text, balance numeric, updated_at timestamptz)"
        )
        db.execute("INSERT INTO customers VALUES (1, 'Ada', -5.5), (2, 'Ben', 7), (3, 'Cy', NULL)")
    (tmp_path / "headrace.toml").write_text('[project]\nname = "shop"\n')
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    database = {**server.environment, "PGDATABASE": "customers", "PGPASSWORD": "only-here"}
    reader = Reader(tmp_path, **database)
    try:
        reader.follow(GUIDE / "changes.md", "capture")
    finally:
        reader.stop()
    debtors = open_project(tmp_path).table("debtors").to_polars()
    assert debtors.select("id", "name", "balance").rows() == [(1, "Ada", Decimal("-5.50"))]


def test_a_table_emptied_while_its_slot_is_lost_has_no_rows(server: Postgres, tmp_path: Path) -> None:
    """The slot is lost with its deletes, and the new snapshot has no row to mark its end."""
    pytest.importorskip("pydbzengine", reason="pydbzengine is not installed")
    bank = Bank(tmp_path / "bank", server, "emptied", "")
    bank.change(1)
    rows = len(bank.select())
    try:
        capture = bank.start("capture")
        wait_for(lambda: bank.count_on_log() >= rows, "the snapshot on the log", capture)
        kill(capture)
        ingest(Workspace(bank.settings), until_end=True)
        assert bank.current() == as_lake_values(bank.select())
        bank.db.execute("DELETE FROM accounts")
        slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
        slot += "WHERE NOT active AND database = current_database()"
        wait_for(lambda: bank.db.execute(slot).rowcount == 1, "the end of the slot")
        for offsets in (bank.settings.state / "capture").glob("*.offsets"):
            offsets.unlink()
        before = bank.count_on_log()
        capture = bank.start("capture")
        wait_for(lambda: bank.count_on_log() > before, "the snapshot's end on the log", capture)
        ingest(Workspace(bank.settings), until_end=True)
        assert bank.current() == []
        assert bank.changelog()["_valid"].all()
        bank.db.execute(f"INSERT INTO accounts {ROWS} FROM generate_series(1, 3) i")
        wait_for(lambda: bank.count_on_log() > before + 3, "the new rows on the log", capture)
        ingest(Workspace(bank.settings), until_end=True)
        assert bank.current() == as_lake_values(bank.select())
        capture.terminate()
        assert capture.wait(180) == 0
    finally:
        capture.kill()
        capture.communicate()
        bank.close()
