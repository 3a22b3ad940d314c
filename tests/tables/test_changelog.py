"""The current rows of a database's table, and its rows as of a time, against playing the changes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.events.customers import NOON, Customer, change

from headrace import log
from headrace.config.settings import Profile, Settings
from headrace.declare.changes import current
from headrace.declare.event import contract_of
from headrace.declare.project import Project
from headrace.events.ingest.ingest import Ingest
from headrace.features.plan import AsOfView, Field
from headrace.features.point_in_time import join_as_of
from headrace.kernel.faults import VARIABLE
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.tables.build import build_table
from headrace.tables.changelog import as_of
from headrace.tables.read import read_input

KEPT = ("id", "name", "balance")


class Shop:
    """A topic of changes, its changelog and its table of current rows, in a scratch folder."""

    def __init__(self, root: Path) -> None:
        settings = Settings(root, "scratch", "local", Profile(), root / "state")
        found = contract_of(Customer)
        assert found is not None
        self.contract = found
        self.table = current(Customer)
        self.project = Project(settings, {found.topic: found}, {}, {self.table.name: self.table}, {}, ())
        self.log = log.open(settings.log_url)
        self.lake: Lake = open_lake(settings)
        self.log.create(found.topic)

    def ingest(self, *raw: bytes, headers: dict[str, bytes] | None = None) -> None:
        self.log.append(self.contract.topic, list(raw), headers=[headers] * len(raw))
        Ingest(self.contract, self.log, self.lake).run(True, threading.Event())

    def build(self, code: str = "code") -> pl.DataFrame:
        build_table(self.project, self.lake, self.table, code=code)
        return self.lake.table(self.table.name).scan().sort("id").collect()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.build().select(KEPT).rows()

    def changelog(self) -> pl.LazyFrame:
        return read_input(self.project, self.lake, self.contract)

    def then(self, at: int) -> list[tuple[Any, ...]]:
        moment = from_micros(NOON + at * 1_000_000)
        return as_of(self.changelog(), self.contract.row_key, moment).sort("id").select(KEPT).rows()

    def joined(self, at: int, *ids: int) -> list[Any]:
        view = AsOfView("v", ("id",), self.contract.table, "_changed_at", (Field("name", "string"),))
        labels = pl.DataFrame({"id": ids, "event_timestamp": [from_micros(NOON + at * 1_000_000)] * len(ids)})
        return join_as_of(labels, view, self.changelog(), strict=False)["name"].to_list()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path)
    yield one
    one.log.close()


def row(id: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "name": name, **more}


def test_inserts_updates_deletes_and_a_key_that_comes_back(shop: Shop) -> None:
    shop.ingest(change("r", 1, row(1, "a"), snapshot="first"), change("r", 1, row(2, "b"), snapshot="last"))
    shop.ingest(
        change("u", 2, row(1, "a2", balance="1.10")),
        change("d", 3, row(2, "")),
        b"",
        change("c", 4, row(3, "c")),
    )
    assert shop.rows() == [(1, "a2", "1.10"), (3, "c", None)]
    shop.ingest(change("c", 5, row(2, "back")), change("d", 6, row(3, "")))
    assert shop.rows() == [(1, "a2", "1.10"), (2, "back", None)]
    assert shop.then(1) == [(1, "a", None), (2, "b", None)]
    assert shop.then(4) == [(1, "a2", "1.10"), (3, "c", None)]
    assert shop.joined(0, 1) == [None]
    assert shop.joined(4, 1, 2, 3, 9) == ["a2", None, "c", None]
    assert shop.joined(9, 1, 2, 3) == ["a2", "back", None]
    # Every change is a row of the changelog, the tombstone is none, and none is refused.
    everything = shop.lake.table(shop.contract.table).scan().sort("_log_offset").collect()
    assert everything["_op"].to_list() == ["r", "r", "u", "d", "c", "c", "d"]
    assert everything["_valid"].all()


def test_a_change_that_comes_late_takes_its_own_place(shop: Shop) -> None:
    shop.ingest(
        change("c", 10, row(1, "a")),
        change("u", 30, row(1, "c")),
        change("c", 11, row(2, "x")),
        change("d", 31, row(2, "")),
    )
    assert shop.rows() == [(1, "c", None)]
    shop.ingest(change("u", 20, row(1, "b")), change("u", 21, row(2, "y")))  # as replayed from quarantine
    assert shop.rows() == [(1, "c", None)]
    assert shop.then(25) == [(1, "b", None), (2, "y", None)]
    assert shop.joined(25, 1, 2) == ["b", "y"]
    assert shop.joined(40, 1, 2) == ["c", None]


def test_several_changes_of_a_row_in_one_transaction(shop: Shop) -> None:
    shop.ingest(
        *(
            change(op, 10 + n, row(1, name), at=50)
            for n, (op, name) in enumerate([("c", "z"), ("u", "y"), ("u", "a")])
        )
    )
    assert shop.rows() == [(1, "a", None)]
    assert shop.joined(50, 1) == ["a"]


def test_a_transaction_that_a_snapshot_did_not_see_comes_after_it(shop: Shop) -> None:
    """As PostgreSQL 15 and Debezium 3.7 write it: LSN 18 lies before the snapshot's 20, its commit after."""
    shop.ingest(change("r", 20, row(1, "old"), snapshot="first"), change("r", 20, row(2, "b"), snapshot="last"))
    assert shop.rows() == [(1, "old", None), (2, "b", None)]
    shop.ingest(change("u", 18, row(1, "new"), at=25), change("c", 19, row(3, "c"), at=25))
    assert shop.rows() == [(1, "new", None), (2, "b", None), (3, "c", None)]
    assert shop.build("other code").select(KEPT).rows() == [(1, "new", None), (2, "b", None), (3, "c", None)]
    assert shop.then(22) == [(1, "old", None), (2, "b", None)]


def test_truncate_and_a_snapshot_take_away_what_they_do_not_have(shop: Shop) -> None:
    shop.ingest(*(change("c", n, row(n, "a")) for n in (1, 2, 3)))
    assert len(shop.rows()) == 3
    shop.ingest(change("t", 5), change("c", 6, row(2, "b")), change("c", 7, row(4, "d")))
    assert shop.rows() == [(2, "b", None), (4, "d", None)]
    assert shop.joined(5, 1, 2, 3) == [None, None, None]
    # The connector's slot was lost; while it was away row 4 was deleted: the new snapshot lacks it.
    shop.ingest(change("r", 20, row(2, "b"), snapshot="first"), change("r", 20, row(5, "e"), snapshot="last"))
    assert shop.rows() == [(2, "b", None), (5, "e", None)]
    assert shop.joined(19, 2, 4, 5) == ["b", "d", None]
    assert shop.joined(20, 2, 4, 5) == ["b", None, "e"]
    assert shop.then(19) == [(2, "b", None), (4, "d", None)]


def test_a_value_that_the_database_did_not_send_is_the_one_before(shop: Shop) -> None:
    placeholder = "__debezium_unavailable_value"
    shop.ingest(change("c", 1, row(1, "long", balance="1")))
    shop.rows()
    shop.ingest(
        change("u", 2, row(1, placeholder, balance="2")), change("u", 3, row(1, placeholder, balance="3"))
    )
    assert shop.rows() == [(1, "long", "3")]
    assert shop.joined(2, 1) == shop.joined(9, 1) == ["long"]
    changelog = shop.changelog().sort("_lsn").select("name", "_unchanged").collect()
    assert changelog.rows() == [("long", None), (None, ["name"]), (None, ["name"])]


def test_what_debezium_sends_again_counts_once(shop: Shop) -> None:
    first = [
        change("r", 1, row(1, "a"), snapshot="last"),
        change("c", 2, row(2, "b")),
        change("u", 2, row(2, "b2")),
    ]
    shop.ingest(*first)
    shop.ingest(*first)  # another process: what was seen is read back from the table
    told = (
        shop.lake.table(shop.contract.table).scan().group_by("_valid", "_code").len().sort("_valid").collect()
    )
    assert told.rows() == [(False, "duplicate", 3), (True, None, 3)]


def test_any_changes_in_any_batches_give_what_playing_them_gives(shop: Shop) -> None:
    """Random changes of few keys, delivered with gaps, late and twice, and built now and then."""
    chance = random.Random(7)
    rows: dict[int, str] = {}
    raw, states = [], {}
    for lsn in range(1, 400):
        key = chance.randrange(12)
        if lsn % 90 == 0:
            rows.clear()
            raw.append(change("t", lsn))
        elif key in rows and chance.random() < 0.3:
            del rows[key]
            raw.append(change("d", lsn, row(key, "")))
        else:
            op = "u" if key in rows else "c"
            rows[key] = f"v{lsn}"
            raw.append(change(op, lsn, row(key, rows[key])))
        states[lsn] = sorted((k, v, None) for k, v in rows.items())
    sent = sorted(raw, key=lambda _: chance.random() * 40 + raw.index(_))
    sent += chance.sample(raw, 50)
    for start in range(0, len(sent), 75):
        shop.ingest(*sent[start : start + 75])
        shop.rows()
    assert shop.rows() == states[399]
    assert shop.build("other code").select(KEPT).rows() == states[399]
    for lsn in (1, 50, 89, 90, 91, 200, 270, 398):
        assert shop.then(lsn) == states[lsn]
        found = dict(zip(range(12), shop.joined(lsn, *range(12)), strict=True))
        assert {k: v for k, v in found.items() if v is not None} == {k: v for k, v, _ in states[lsn]}


def test_a_build_that_is_killed_leaves_the_old_rows_or_the_new(shop: Shop, tmp_path: Path) -> None:
    script = f"from pathlib import Path; from {__name__} import Shop; Shop(Path({str(tmp_path)!r})).build()"
    shop.ingest(change("c", 1, row(1, "a")))
    assert shop.rows() == [(1, "a", None)]
    before: list[tuple[Any, ...]] = [(1, "a", None)]
    for lsn, point in ((10, "lake.before_commit"), (20, "lake.after_commit")):
        shop.ingest(change("u", lsn, row(1, f"v{lsn}")), change("c", lsn + 1, row(lsn, "new")))
        after = sorted([*(one for one in before if one[0] != 1), (1, f"v{lsn}", None), (lsn, "new", None)])
        killed = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, VARIABLE: point}, capture_output=True, text=True
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        left = shop.lake.table(shop.table.name).scan().sort("id").select(KEPT).collect().rows()
        assert left == (before if point == "lake.before_commit" else after)
        assert shop.rows() == after
        before = after
