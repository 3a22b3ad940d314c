"""The current rows of a database's table, and its rows as of a time, compared with applying the changes."""

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

import pytest
from tests.events.customers import change
from tests.tables.changes_shop import COLUMNS, Shop
from tests.tables.database import Database

from headrace.events.ingest.ingest import Ingest
from headrace.kernel.faults import VARIABLE


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.log.close()


def row(id: int, name: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "name": name, **more}


def test_inserts_updates_deletes_and_a_key_that_is_inserted_again(shop: Shop) -> None:
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
    assert shop.rows_at(1) == [(1, "a", None), (2, "b", None)]
    assert shop.rows_at(4) == [(1, "a2", "1.10"), (3, "c", None)]
    assert shop.names_joined_at(0, 1) == [None]
    assert shop.names_joined_at(4, 1, 2, 3, 9) == ["a2", None, "c", None]
    assert shop.names_joined_at(9, 1, 2, 3) == ["a2", "back", None]
    # Every change is a row of the changelog, the tombstone is not, and no change is refused.
    everything = shop.lake.table(shop.contract.table).scan().sort("_log_offset").collect()
    assert everything["_op"].to_list() == ["r", "r", "u", "d", "c", "c", "d"]
    assert everything["_valid"].all()


def test_a_late_change_takes_its_place_in_the_order(shop: Shop) -> None:
    shop.ingest(
        change("c", 10, row(1, "a")),
        change("u", 30, row(1, "c")),
        change("c", 11, row(2, "x")),
        change("d", 31, row(2, "")),
    )
    assert shop.rows() == [(1, "c", None)]
    shop.ingest(change("u", 20, row(1, "b")), change("u", 21, row(2, "y")))  # as replayed from quarantine
    assert shop.rows() == [(1, "c", None)]
    assert shop.rows_at(25) == [(1, "b", None), (2, "y", None)]
    assert shop.names_joined_at(25, 1, 2) == ["b", "y"]
    assert shop.names_joined_at(40, 1, 2) == ["c", None]


def test_the_last_of_several_changes_in_one_transaction_counts(shop: Shop) -> None:
    shop.ingest(
        *(
            change(op, 10 + n, row(1, name), at=50)
            for n, (op, name) in enumerate([("c", "z"), ("u", "y"), ("u", "a")])
        )
    )
    assert shop.rows() == [(1, "a", None)]
    assert shop.names_joined_at(50, 1) == ["a"]


def test_a_transaction_that_a_snapshot_did_not_see_comes_after_it(shop: Shop) -> None:
    """As PostgreSQL 15 and Debezium 3.7 write it: LSN 18 is before the snapshot's 20, its commit after."""
    shop.ingest(change("r", 20, row(1, "old"), snapshot="first"), change("r", 20, row(2, "b"), snapshot="last"))
    assert shop.rows() == [(1, "old", None), (2, "b", None)]
    shop.ingest(change("u", 18, row(1, "new"), at=25), change("c", 19, row(3, "c"), at=25))
    assert shop.rows() == [(1, "new", None), (2, "b", None), (3, "c", None)]
    assert shop.build("other code").select(COLUMNS).rows() == [(1, "new", None), (2, "b", None), (3, "c", None)]
    assert shop.rows_at(22) == [(1, "old", None), (2, "b", None)]


def test_a_snapshot_removes_the_rows_it_lacks_once_a_change_follows(shop: Shop) -> None:
    shop.ingest(*(change("c", n, row(n, "a")) for n in (1, 2, 3)))
    assert len(shop.rows()) == 3
    shop.ingest(change("r", 20, row(2, "b"), snapshot="first"))  # the first of several tables
    assert shop.rows() == [
        (1, "a", None),
        (2, "b", None),
        (3, "a", None),
    ]  # not yet complete
    shop.ingest(change("u", 30, row(2, "c")))
    assert shop.rows() == [(2, "c", None)]
    assert shop.build("other code").select(COLUMNS).rows() == [(2, "c", None)]
    assert shop.rows_at(19) == [(1, "a", None), (2, "a", None), (3, "a", None)]
    assert shop.rows_at(20) == [(2, "b", None)]
    assert shop.names_joined_at(25, 1, 2, 3) == [None, "b", None]


def test_a_killed_snapshot_removes_nothing(shop: Shop) -> None:
    shop.ingest(change("c", 1, row(1, "a")), change("c", 2, row(2, "b")), change("c", 3, row(3, "c")))
    shop.ingest(change("r", 20, row(1, "a"), snapshot="first"), change("r", 20, row(2, "b"), snapshot="true"))
    shop.ingest(change("r", 30, row(1, "a"), snapshot="first"), change("r", 30, row(3, "c"), snapshot="last"))
    assert shop.rows() == [(1, "a", None), (3, "c", None)]
    assert shop.rows_at(25) == [(1, "a", None), (2, "b", None), (3, "c", None)]


def test_a_snapshot_without_rows_removes_all_rows(shop: Shop) -> None:
    shop.ingest(*(change("c", n, row(n, "a")) for n in (1, 2)))
    assert len(shop.rows()) == 2
    shop.ingest(change("r", 20, snapshot="last"), change("c", 21, row(3, "b")))
    assert shop.rows() == [(3, "b", None)]
    assert shop.names_joined_at(20, 1, 2) == [None, None]


def test_lsns_of_another_server_are_not_compared(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """After a failover or a restore, with a snapshot."""
    shop.ingest(change("c", 9_000, row(1, "a"), at=1), change("u", 9_100, row(1, "b"), at=2))
    shop.ingest(change("c", 9_200, row(2, "x"), at=3))
    assert shop.rows() == [(1, "b", None), (2, "x", None)]
    shop.ingest(change("r", 20, row(1, "c"), at=10, snapshot="first"))
    shop.ingest(change("r", 20, row(2, "x"), at=10, snapshot="last"))
    assert shop.rows() == [(1, "c", None), (2, "x", None)]
    (message,) = [record.getMessage() for record in caplog.records if "log begins again" in record.getMessage()]
    assert message.startswith(
        "shop.public.customers: the database's log begins again at 2026-03-01T12:00:10+00:00"
    )
    shop.ingest(change("u", 21, row(1, "d"), at=11), change("d", 22, row(2, ""), at=12))
    assert shop.rows() == [(1, "d", None)]
    assert shop.rows_at(5) == [(1, "b", None), (2, "x", None)]
    assert shop.rows_at(10) == [(1, "c", None), (2, "x", None)]
    assert shop.rows_at(11) == [(1, "d", None), (2, "x", None)]
    assert shop.names_joined_at(12, 1, 2) == ["d", None]
    # A change of the old server, from quarantine: it takes the position it first had.
    shop.ingest(change("u", 9_050, row(1, "late"), at=2), headers={"headrace.first": b"0:0"})
    assert shop.rows() == [(1, "d", None)]
    assert shop.build("other code").select(COLUMNS).rows() == [(1, "d", None)]
    # The snapshot of a restored server removes the rows it lacks.
    shop.ingest(change("r", 5, row(7, "z"), at=20, snapshot="last"))
    assert shop.rows() == [(7, "z", None)]


def test_another_server_without_a_snapshot_begins_an_era(shop: Shop) -> None:
    shop.ingest(change("c", 9_000, row(1, "a"), at=1), change("c", 9_100, row(2, "x"), at=2))
    assert len(shop.rows()) == 2
    shop.ingest(change("u", 21, row(1, "b"), at=10), change("d", 22, row(2, ""), at=11))
    assert shop.rows() == [(1, "b", None)]
    shop.ingest(change("t", 23, at=12), change("c", 24, row(3, "n"), at=13))
    assert shop.rows() == [(3, "n", None)]
    assert shop.rows_at(12) == []
    assert shop.names_joined_at(11, 1, 2) == ["b", None]


def test_a_change_of_a_new_server_is_not_a_duplicate_of_an_old_one(shop: Shop) -> None:
    shop.ingest(change("c", 10, row(1, "a"), at=1), change("u", 50, row(1, "b"), at=2))
    shop.ingest(change("u", 50, row(1, "c"), at=20))
    assert shop.lake.table(shop.contract.table).scan().collect()["_valid"].all()


def test_a_clock_that_was_set_back_does_not_begin_an_era(shop: Shop) -> None:
    shop.ingest(change("c", 10, row(1, "a"), at=100), change("u", 20, row(1, "b"), at=90))
    assert shop.rows() == [(1, "b", None)]
    assert shop.rows_at(95) == shop.rows_at(100) == [(1, "b", None)]
    assert shop.names_joined_at(95, 1) == shop.names_joined_at(100, 1) == ["b"]


def test_an_incremental_snapshot_does_not_hide_newer_changes(shop: Shop) -> None:
    """Its rows have the LSN of their window's end; their time is when Debezium read them."""

    def read(lsn: int, id: int, name: str, at: int) -> bytes:
        fields = {"snapshot": "incremental", "sequence": f'["{lsn}","{lsn}"]', "txId": None}
        return change("r", None, row(id, name), at=at, **fields)

    shop.ingest(change("c", 10, row(1, "a")), read(30, 1, "a", 500), read(30, 2, "was there", 500))
    assert shop.rows() == [(1, "a", None), (2, "was there", None)]
    # A transaction open when the window closed: its LSN is lower, its commit earlier than Debezium's read.
    shop.ingest(change("u", 25, row(1, "b"), at=400), change("u", 28, row(2, "c"), at=401))
    assert shop.rows() == [(1, "b", None), (2, "c", None)]
    assert shop.build("other code").select(COLUMNS).rows() == [(1, "b", None), (2, "c", None)]
    assert shop.names_joined_at(600, 1, 2) == ["b", "c"]
    # A change that was refused before the window comes before what the window read.
    shop.ingest(change("c", 5, row(1, "older"), at=5), headers={"headrace.first": b"0:0"})
    assert shop.rows() == [(1, "b", None), (2, "c", None)]


@pytest.mark.parametrize("seed", range(200, 203))
def test_builds_in_steps_equal_the_database(seed: int, shop: Shop) -> None:
    database = Database(seed)
    database.run(120)
    chance = random.Random(seed)
    waiting: list[tuple[bytes, dict[str, bytes]]] = []
    raw: list[bytes] = []
    headers: list[dict[str, bytes] | None] = []
    for event in database.log:
        fields = {"snapshot": event.snapshot or "false"}
        changed = None if event.key is None else row(event.key, event.value or "")
        lsn: int | None = event.lsn
        if event.snapshot == "incremental":
            lsn, fields["sequence"] = None, f'["1","{event.lsn}"]'
        raw.append(change(event.op, lsn, changed, at=event.time, **fields))
        headers.append(None)
        if chance.random() < 0.05:  # it is refused at this position, and replayed later
            waiting.append((raw[-1], {"headrace.first": b"0:%d" % (len(raw) - 1)}))
            raw[-1] = b"{}"
        if waiting and chance.random() < 0.03:
            event_bytes, first = waiting.pop()
            raw.append(event_bytes)
            headers.append(first)
    raw += [event_bytes for event_bytes, _ in waiting]
    headers += [first for _, first in waiting]
    for start in range(0, len(raw), 60):
        shop.log.append(shop.contract.topic, raw[start : start + 60], headers=headers[start : start + 60])
        Ingest(shop.contract, shop.log, shop.lake).run(True, threading.Event())
        current = shop.rows()
        assert current == shop.build("other code").select(COLUMNS).rows()
        shop.build()
    assert current == sorted((key, value, None) for key, value in database.rows.items())


def test_a_truncate_and_a_snapshot_remove_the_rows_they_lack(shop: Shop) -> None:
    shop.ingest(*(change("c", n, row(n, "a")) for n in (1, 2, 3)))
    assert len(shop.rows()) == 3
    shop.ingest(change("t", 5), change("c", 6, row(2, "b")), change("c", 7, row(4, "d")))
    assert shop.rows() == [(2, "b", None), (4, "d", None)]
    assert shop.names_joined_at(5, 1, 2, 3) == [None, None, None]
    # The connector's slot was lost; while it was away row 4 was deleted: the new snapshot lacks it.
    shop.ingest(change("r", 20, row(2, "b"), snapshot="first"), change("r", 20, row(5, "e"), snapshot="last"))
    assert shop.rows() == [(2, "b", None), (5, "e", None)]
    assert shop.names_joined_at(19, 2, 4, 5) == ["b", "d", None]
    assert shop.names_joined_at(20, 2, 4, 5) == ["b", None, "e"]
    assert shop.rows_at(19) == [(2, "b", None), (4, "d", None)]


def test_a_value_that_was_not_sent_is_taken_from_the_change_before(shop: Shop) -> None:
    placeholder = "__debezium_unavailable_value"
    shop.ingest(change("c", 1, row(1, "long", balance="1")))
    shop.rows()
    shop.ingest(
        change("u", 2, row(1, placeholder, balance="2")), change("u", 3, row(1, placeholder, balance="3"))
    )
    assert shop.rows() == [(1, "long", "3")]
    assert shop.names_joined_at(2, 1) == shop.names_joined_at(9, 1) == ["long"]
    changelog = shop.changelog().sort("_lsn").select("name", "_unchanged").collect()
    assert changelog.rows() == [("long", None), (None, ["name"]), (None, ["name"])]


UNSENT = "__debezium_unavailable_value"


def move(lsn: int, old: int, new: int, name: str = UNSENT, **more: Any) -> list[bytes]:
    """An update of a key: Debezium sends a delete and an insert with one LSN."""
    return [change("d", lsn, row(old, "")), change("c", lsn, row(new, name, **more))]


def test_a_value_that_was_not_sent_moves_with_its_row_to_another_key(shop: Shop) -> None:
    shop.ingest(
        change("c", 1, row(1, "long", balance="1")), change("c", 2, row(7, "other")), *move(3, 7, 8, "o")
    )
    shop.rows()
    shop.ingest(change("u", 4, row(1, UNSENT, balance="2")), *move(5, 1, 2, balance="3"))
    assert shop.rows() == [(2, "long", "3"), (8, "o", None)]
    # Further, to a key that another row had, and in one build with a change of its own.
    shop.ingest(*move(6, 2, 7, balance="4"), change("u", 7, row(7, UNSENT, balance="5")), *move(8, 8, 2, "p"))
    assert shop.rows() == [(2, "p", None), (7, "long", "5")]
    assert shop.build("other code").select(COLUMNS).rows() == [(2, "p", None), (7, "long", "5")]
    assert shop.names_joined_at(5, 1, 2, 7) == [None, "long", None]
    assert shop.names_joined_at(9, 1, 2, 7) == [None, "p", "long"]
    assert shop.rows_at(6) == [(7, "long", "4"), (8, "o", None)]
    assert shop.build()["_unchanged"].to_list() == [None, None]


@pytest.mark.parametrize("parts", [([0], [1]), ([1], [0])], ids=["delete first", "insert first"])
def test_the_halves_of_a_move_may_arrive_in_two_builds(shop: Shop, parts: tuple[list[int], list[int]]) -> None:
    """On Kafka, in two log partitions."""
    shop.ingest(change("c", 1, row(1, "long")), change("c", 2, row(3, "x")))
    shop.rows()
    halves = move(5, 1, 2, balance="3")
    for part in parts:
        shop.ingest(*(halves[index] for index in part))
        shop.rows()
    assert shop.rows() == [(2, "long", "3"), (3, "x", None)]


def test_a_late_change_of_the_former_key_counts_after_the_move(shop: Shop) -> None:
    shop.ingest(change("c", 1, row(1, "long")), *move(5, 1, 2, balance="3"), *move(6, 2, 4, balance="4"))
    assert shop.rows() == [(4, "long", "4")]
    shop.ingest(change("u", 3, row(1, "longer")))  # as replayed from quarantine
    assert shop.rows() == [(4, "longer", "4")]


def test_a_value_whose_row_was_never_seen_stays_unsent(shop: Shop) -> None:
    shop.ingest(change("c", 1, row(2, "was here")), change("d", 2, row(2, "")), *move(5, 1, 2, balance="3"))
    assert shop.build().select(*COLUMNS, "_unchanged").rows() == [(2, None, "3", ["name"])]
    assert shop.names_joined_at(9, 2) == [None]
    shop.ingest(change("u", 6, row(2, "sent")), change("d", 7, row(9, "")))
    assert shop.build().select(*COLUMNS, "_unchanged").rows() == [(2, "sent", None, None)]


@pytest.mark.parametrize("seed", range(4))
def test_moves_and_unsent_values_in_any_batches_give_the_databases_rows(seed: int, shop: Shop) -> None:
    """Random changes of few keys; half of the updates do not send the name, and some changes come late."""
    chance = random.Random(seed)
    rows: dict[int, tuple[str, str | None]] = {}
    raw: list[bytes] = []
    states: dict[int, list[tuple[Any, ...]]] = {}
    for lsn in range(1, 160):
        key, other, balance = chance.randrange(8), chance.randrange(8), str(lsn)
        is_sent = chance.random() < 0.5
        if key not in rows:
            rows[key] = (f"n{lsn}", balance)
            raw.append(change("c", lsn, row(key, f"n{lsn}", balance=balance)))
        elif other not in rows and chance.random() < 0.5:
            rows[other] = (f"n{lsn}" if is_sent else rows[key][0], balance)
            del rows[key]
            raw += move(lsn, key, other, f"n{lsn}" if is_sent else UNSENT, balance=balance)
        elif chance.random() < 0.2:
            del rows[key]
            raw.append(change("d", lsn, row(key, "")))
        else:
            rows[key] = (f"n{lsn}" if is_sent else rows[key][0], balance)
            raw.append(change("u", lsn, row(key, f"n{lsn}" if is_sent else UNSENT, balance=balance)))
        states[lsn] = sorted((key, *values) for key, values in rows.items())
    at = {id(event): chance.random() * 20 + index for index, event in enumerate(raw)}
    sent = sorted(raw, key=lambda event: at[id(event)])
    for start in range(0, len(sent), 40):
        shop.ingest(*sent[start : start + 40])
        current = shop.rows()
    assert current == states[159]
    assert shop.build("other code").select(COLUMNS).rows() == states[159]
    for lsn in (1, 40, 80, 120, 158):
        assert shop.rows_at(lsn) == states[lsn]
        names = dict(zip(range(8), shop.names_joined_at(lsn, *range(8)), strict=True))
        assert {k: v for k, v in names.items() if v is not None} == {k: v for k, v, _ in states[lsn]}


def test_a_change_that_debezium_sends_twice_counts_once(shop: Shop) -> None:
    first = [
        change("r", 1, row(1, "a"), snapshot="last"),
        change("c", 2, row(2, "b")),
        change("u", 2, row(2, "b2")),
    ]
    shop.ingest(*first)
    shop.ingest(*first)  # another process reads from the table what was ingested
    verdicts = (
        shop.lake.table(shop.contract.table).scan().group_by("_valid", "_code").len().sort("_valid").collect()
    )
    assert verdicts.rows() == [(False, "duplicate", 3), (True, None, 3)]


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
    assert shop.build("other code").select(COLUMNS).rows() == states[399]
    for lsn in (1, 50, 89, 90, 91, 200, 270, 398):
        assert shop.rows_at(lsn) == states[lsn]
        names = dict(zip(range(12), shop.names_joined_at(lsn, *range(12)), strict=True))
        assert {k: v for k, v in names.items() if v is not None} == {k: v for k, v, _ in states[lsn]}


def test_a_build_that_is_killed_leaves_the_old_rows_or_the_new(shop: Shop, tmp_path: Path) -> None:
    script = f"from pathlib import Path; from {__name__} import Shop; Shop(Path({str(tmp_path)!r})).build()"
    shop.ingest(change("c", 1, row(1, "a")))
    assert shop.rows() == [(1, "a", None)]
    before: list[tuple[Any, ...]] = [(1, "a", None)]
    for lsn, point in ((10, "lake.before_commit"), (20, "lake.after_commit")):
        shop.ingest(change("u", lsn, row(1, f"v{lsn}")), change("c", lsn + 1, row(lsn, "new")))
        after = sorted(
            [*(values for values in before if values[0] != 1), (1, f"v{lsn}", None), (lsn, "new", None)]
        )
        killed = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, VARIABLE: point}, capture_output=True, text=True
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        rows = shop.lake.table(shop.table.name).scan().sort("id").select(COLUMNS).collect().rows()
        assert rows == (before if point == "lake.before_commit" else after)
        assert shop.rows() == after
        before = after
