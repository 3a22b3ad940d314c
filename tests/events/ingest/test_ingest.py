from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import attrs
import polars as pl
import pyarrow as pa
import pytest
from tests.events.clicks import click

from headrace import Struct, event
from headrace.config.settings import Settings
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress, ingest_all
from headrace.events.ingest.position import read_position
from headrace.events.ingest.sinks import sink_schema
from headrace.events.quarantine import QuarantineSelection, replay
from headrace.kernel.errors import Conflict, Refused, Unavailable
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import LATEST_ARRIVAL, UNDECLARED_FIELDS
from headrace.kernel.run import RunEvent, record_with
from headrace.kernel.time import now, parse_duration
from headrace.lake import Lake, Unwritable
from headrace.log import Log
from headrace.log.partition import partition_of


class Kept:
    """A sink in memory: what it was given, and how far."""

    name = "kept"

    def __init__(self) -> None:
        self.at: LogPosition | None = None
        self.rows: list[dict[str, Any]] = []
        self.away = False
        self.schemas: set[pa.Schema] = set()

    def position(self) -> LogPosition | None:
        return self.at

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        if self.away:
            raise Unavailable("the sink is away")
        self.schemas.add(good.schema)
        done = self.at or LogPosition(position.topic, position.log_id)
        new = [r for r in good.to_pylist() if not done.covers(r["_log_partition"], r["_log_offset"])]
        self.rows += new
        self.at = done.advance(position.offsets)

    @property
    def users(self) -> list[int]:
        return [row["user"] for row in self.rows]


def rows_of(lake: Lake, contract: Contract) -> pl.DataFrame:
    return lake.table(contract.table).scan().sort("_log_partition", "_log_offset").collect()


def to_end(contract: Contract, log: Log, lake: Lake, *sinks: Kept) -> list[Progress]:
    told: list[Progress] = []
    Ingest(contract, log, lake, sinks).run(
        until_end=True, stop=threading.Event(), hooks=IngestHooks(told.append)
    )
    return told


def test_a_step_stores_every_event_once_with_its_position(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest = Ingest(contract, events_log, lake)
    assert ingest.step() is None
    events_log.append("clicks", [click(1), b"no json", click(2, price=-1), click(1)])
    progress = ingest.step()
    assert progress is not None
    assert (progress.events, progress.good) == (4, 1)
    assert progress.refused == Counter(not_json=1, out_of_range=1, duplicate=1)
    rows = rows_of(lake, contract)
    assert rows["_log_offset"].to_list() == [0, 1, 2, 3]
    assert rows["_valid"].to_list() == [True, False, False, False]
    assert rows["_code"].to_list() == [None, "not_json", "out_of_range", "duplicate"]
    assert rows["_field"].to_list() == [None, None, "price", None]
    assert rows["_raw"].to_list() == [None, b"no json", click(2, price=-1), click(1)]
    assert rows["user"].to_list() == [1, None, None, None]
    table = lake.table("clicks")
    assert read_position(table) == LogPosition("clicks", events_log.identity("clicks"), {0: 4})
    arrived = rows["_arrived_at"].max()
    assert int(table.property(LATEST_ARRIVAL) or 0) == pl.Series([arrived]).to_physical()[0]
    head = table.current_snapshot()
    assert head is not None
    assert head.id == progress.snapshot
    assert head.summary[LATEST_ARRIVAL] == table.property(LATEST_ARRIVAL)
    assert ingest.step() is None


def test_a_new_process_goes_on_and_remembers_duplicates(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1), click(2)])
    to_end(contract, events_log, lake)
    events_log.append("clicks", [click(3), click(2), click(1)])
    (told,) = to_end(contract, events_log, lake)
    assert (told.good, told.refused) == (1, Counter(duplicate=2))
    assert rows_of(lake, contract).filter("_valid")["user"].to_list() == [1, 2, 3]


def test_many_batches_and_log_partitions(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 70)
    monkeypatch.setattr("headrace.events.ingest.ingest.TRICKLE", 0)
    wide = attrs.evolve(contract, partitions=3)
    events_log.create("clicks", 3)
    events_log.append("clicks", [click(n) for n in range(500)], [b"%d" % n for n in range(500)])
    kept = Kept()
    told = to_end(wide, events_log, lake, kept)
    assert sum(one.good for one in told) == 500
    assert len(told) > 5
    assert sorted(kept.users) == sorted(rows_of(lake, contract)["user"].to_list()) == list(range(500))
    assert kept.at == told[-1].position
    assert told[-1].position.offsets == events_log.end("clicks")


def test_of_two_that_ingest_at_once_one_loses_its_batch(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    one, other = Ingest(contract, events_log, lake), Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1), click(2)])
    assert one.step() is not None
    with pytest.raises(Conflict):
        other.step()
    assert other.step() is None
    events_log.append("clicks", [click(1), click(3)])
    progress = other.step()
    assert progress is not None
    assert (progress.good, progress.refused) == (1, Counter(duplicate=1))
    assert rows_of(lake, contract)["_log_offset"].to_list() == [0, 1, 2, 3]


def test_a_sink_is_fed_what_is_good_in_order(contract: Contract, events_log: Log, lake: Lake) -> None:
    kept = Kept()
    ingest = Ingest(contract, events_log, lake, [kept])
    events_log.append("clicks", [click(1), b"{}", click(2)])
    ingest.step()
    assert kept.users == [1, 2]
    assert kept.at == ingest.position
    assert kept.schemas == {sink_schema(contract)}


def test_a_new_sink_catches_up_from_the_table_though_the_log_was_trimmed(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.sinks.CHUNK", 3)
    events_log.create("clicks")
    events_log.append("clicks", [click(n) if n % 3 else b"no" for n in range(20)])
    to_end(contract, events_log, lake)
    events_log.trim("clicks", {0: 20})
    kept = Kept()
    to_end(contract, events_log, lake, kept)
    assert kept.users == [n for n in range(20) if n % 3]
    assert kept.at == LogPosition("clicks", events_log.identity("clicks"), {0: 20})
    assert kept.schemas == {sink_schema(contract)}


def test_a_sink_that_is_away_holds_up_neither_table_nor_other_sinks(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    kept, other = Kept(), Kept()
    kept.away = True
    ingest = Ingest(contract, events_log, lake, [kept, other])
    for number in (1, 2):
        events_log.append("clicks", [click(number)])
        with pytest.raises(Unavailable, match="away"):
            ingest.step()
    assert other.users == [1, 2]
    assert rows_of(lake, contract)["user"].to_list() == [1, 2]
    kept.away = False
    events_log.append("clicks", [click(3)])
    ingest.step()
    assert kept.users == [1, 2, 3]


def test_a_sink_is_never_ahead_of_a_table_that_could_not_be_written_nor_read(
    contract: Contract, events_log: Log, lake: Lake, settings: Settings
) -> None:
    kept = Kept()
    ingest = Ingest(contract, events_log, lake, [kept])
    events_log.append("clicks", [click(1)])
    ingest.step()
    events_log.append("clicks", [click(2)])
    path = settings.place("lake", "catalog.db")
    away = path.rename(path.with_name("away.db"))
    with pytest.raises(Unavailable):
        ingest.step()
    path.unlink()  # SQLite made an empty one
    away.rename(path)
    progress = ingest.step()
    assert progress is not None
    assert kept.users == rows_of(lake, contract)["user"].to_list() == [1, 2]


def test_a_sink_of_another_log_is_refused(contract: Contract, events_log: Log, lake: Lake) -> None:
    kept = Kept()
    kept.at = LogPosition("clicks", "another", {0: 5})
    ingest = Ingest(contract, events_log, lake, [kept])
    events_log.append("clicks", [click(1)])
    with pytest.raises(Refused, match="another log"):
        ingest.step()


def test_a_topic_that_was_made_again_is_refused(
    contract: Contract, events_log: Log, lake: Lake, settings: Any
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    to_end(contract, events_log, lake)
    events_log.close()
    for path in settings.place("log").iterdir():
        path.unlink()
    events_log.create("clicks")
    with pytest.raises(Refused, match="created again") as raised:
        Ingest(contract, events_log, lake)
    assert raised.value.remedy


def test_running_goes_on_until_it_is_stopped(contract: Contract, events_log: Log, lake: Lake) -> None:
    stop, reached = threading.Event(), threading.Event()
    events: list[RunEvent] = []

    class Recorder:
        def record(self, event: RunEvent) -> None:
            events.append(event)

    def tell(progress: Progress) -> None:
        if progress.position.offsets == {0: 4}:
            reached.set()

    with record_with(Recorder()):
        thread = threading.Thread(
            target=ingest_all, args=([contract], events_log, lake),
            kwargs={"until_end": False, "stop": stop, "hooks": IngestHooks(tell)},
        )  # fmt: skip
        thread.start()
        events_log.create("clicks")
        events_log.append("clicks", [click(1), click(2)])
        events_log.append("clicks", [click(3), b"no"])
        assert reached.wait(60)
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert (events[0].outcome, events[-1].outcome) == ("START", "COMPLETE")
    this = events[-1].run
    assert this.job == "ingest clicks"
    assert this.inputs[0].position == LogPosition("clicks", events_log.identity("clicks"), {0: 4})
    assert this.outputs[0].facts == {"rows": 4, "good": 3, "refused": {"not_json": 1}}


SPOILING = "-" * 15 + "\ud7ff" + "."
"""PyIceberg cannot make the upper bound of a column whose greatest text is this one."""


@pytest.fixture
def unmended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are described as PyIceberg does it by itself."""
    monkeypatch.setattr("headrace.lake.pyiceberg_internals.set_text_bounds", lambda statistics: None)


def test_a_text_whose_bound_pyiceberg_cannot_make_is_stored(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1, note=SPOILING), click(2, note="\U0010ffff" * 20), click(3, note="x")])
    to_end(contract, events_log, lake)
    found = lake.table("clicks").scan().filter(pl.col("note") >= SPOILING).collect()
    assert sorted(found["note"].to_list()) == sorted([SPOILING, "\U0010ffff" * 20, "x"])


@pytest.mark.usefixtures("unmended")
@pytest.mark.parametrize("steps", [False, True])
def test_events_that_cannot_be_stored_go_to_quarantine_and_stop_nothing(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch, steps: bool
) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 100)
    monkeypatch.setattr("headrace.events.ingest.ingest.TRICKLE", 0)
    events_log.create("clicks")
    numbers = range(350)
    spoilt = {7, 8, 120, 349}
    values = [click(n, note=SPOILING) if n in spoilt else click(n) for n in numbers]
    # Again, one after the other, and once more at the end: what is not stored makes no copy a duplicate.
    values += [click(8, note=SPOILING), click(8), click(9)]
    events_log.append("clicks", values)
    kept = Kept()
    if steps:
        ingest = Ingest(contract, events_log, lake, [kept])
        while ingest.step() is not None:
            pass
    else:
        to_end(contract, events_log, lake, kept)
    rows = rows_of(lake, contract)
    assert rows["_log_offset"].to_list() == list(range(len(values)))
    refused = rows.filter(~pl.col("_valid"))
    assert dict(refused.select("_log_offset", "_code").iter_rows()) == dict.fromkeys(
        [*sorted(spoilt), 350], "unwritable"
    ) | {352: "duplicate"}
    assert refused["_raw"].to_list() == [values[at] for at in refused["_log_offset"].to_list()]
    assert "surrogates not allowed" in refused["_reason"][0]
    assert refused.select(*contract.struct.__struct_fields__, "_field").null_count().row(0) == (6,) * 6
    assert sorted(kept.users) == sorted({*numbers} - spoilt | {8})
    position = read_position(lake.table("clicks"))
    assert position == LogPosition("clicks", events_log.identity("clicks"), {0: len(values)})
    # Mended, they are admitted when they are replayed.
    monkeypatch.undo()
    replay(contract, lake, events_log, QuarantineSelection(code="unwritable"))
    to_end(contract, events_log, lake, kept)
    assert set(kept.users) == set(numbers)


@pytest.mark.usefixtures("unmended")
def test_who_has_taken_what_cannot_be_stored_gives_the_same_verdicts_as_a_new_process(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest = Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1), click(90_000, user=1, note=SPOILING, at="2026-03-20T12:00:00Z")])
    assert ingest.step() is not None
    events_log.append("clicks", [click(1)])
    progress = ingest.step()
    assert progress is not None
    assert progress.refused == Counter(duplicate=1)


def test_where_no_row_can_be_stored_no_event_is_accused(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(statistics: object) -> None:
        raise ArithmeticError(f"{type(statistics)} is not what it was")

    ingest = Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1), click(2)])
    monkeypatch.setattr("headrace.lake.pyiceberg_internals.set_text_bounds", fail)
    with pytest.raises(Unwritable, match="is not what it was"):
        ingest.step()
    with pytest.raises(Unwritable, match="is not what it was"):
        to_end(contract, events_log, lake)
    assert lake.table("clicks").current_snapshot() is None
    monkeypatch.undo()
    assert sum(one.good for one in to_end(contract, events_log, lake)) == 2


def test_an_event_that_breaks_the_judge_goes_to_quarantine(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    class Unspeakable(ValueError):
        def __str__(self) -> str:
            raise KeyError("no words")

    @event(topic="clicks", time="at", key="user")
    class Fragile(Struct):
        at: datetime
        user: int
        page: str

        def __post_init__(self) -> None:
            if self.user == 3:
                raise Unspeakable

    fragile = contract_of(Fragile)
    assert fragile is not None
    events_log.create("clicks")
    events_log.append("clicks", [click(n) for n in range(6)])
    (told,) = to_end(fragile, events_log, lake)
    assert (told.good, told.refused) == (5, Counter(unwritable=1))
    assert rows_of(lake, fragile)["_raw"].to_list() == [None, None, None, click(3), None, None]


def test_an_event_is_forgotten_when_the_watermark_has_passed(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1), click(9_000, user=2), click(1), click(9_000, user=2)])
    (told,) = to_end(attrs.evolve(contract, dedup_within=timedelta(hours=1)), events_log, lake)
    # 9,000 s later the first has been forgotten, so the same again is admitted; the second has not.
    assert (told.good, told.refused) == (3, Counter(duplicate=1))


@pytest.mark.parametrize("key", ["user", None])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_backlog_of_several_log_partitions_admits_no_copy(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch, key: str | None,
    restarts: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 90)
    wide = attrs.evolve(contract, key=key, partitions=3, dedup_within=timedelta(days=1))
    events_log.create("clicks", 3)
    hour = 3_600
    for begin in range(0, 600, 10):  # an event an hour, each ten sent twice
        values = [click(n * hour, user=n) for n in range(begin, begin + 10)]
        keys = None if key is None else [b"%d" % n for n in range(begin, begin + 10)]
        events_log.append("clicks", values, keys)
        events_log.append("clicks", values, keys)
    ingest = Ingest(wide, events_log, lake)
    good = 0
    while (progress := ingest.step()) is not None:
        good += progress.good
        if restarts:
            ingest = Ingest(wide, events_log, lake)
    assert good == 600
    users = lake.table("clicks").scan().filter("_valid").collect()["user"]
    assert sorted(users.to_list()) == list(range(600))


def test_a_log_partition_that_gets_nothing_for_long_is_remembered_by_a_new_process(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    def key_in(partition: int) -> bytes:
        return next(b"%d" % n for n in range(99) if partition_of(b"%d" % n, 3) == partition)

    wide = attrs.evolve(contract, partitions=3)
    events_log.create("clicks", 3)
    day = 86_400
    for partition in (0, 1):
        events_log.append("clicks", [click(partition)], [key_in(partition)])
    events_log.append("clicks", [click(n * day) for n in range(2, 50)], [key_in(2)] * 48)
    to_end(wide, events_log, lake)
    events_log.append("clicks", [click(0), click(49 * day)], [key_in(0), key_in(2)])
    events_log.append("clicks", [click(7_200), click(1)], [key_in(1)] * 2)  # two hours later, then the first
    (told,) = to_end(wide, events_log, lake)
    assert (told.good, told.refused) == (2, Counter(duplicate=2))


@pytest.mark.parametrize(("future", "within"), [("400d", "1h"), ("5m", "4m")])
def test_an_event_dated_ahead_makes_nothing_forgotten(
    contract: Contract, events_log: Log, lake: Lake, future: str, within: str
) -> None:
    ahead = attrs.evolve(contract, max_ahead=parse_duration(future), dedup_within=parse_duration(within))
    events_log.create("clicks")
    present, later = now(), now() + ahead.max_ahead - timedelta(seconds=10)
    first, second = click(1, at=present.isoformat()), click(2, at=later.isoformat())
    for values in ([first, first], [second, first], [first, second]):  # a process each
        events_log.append("clicks", values)
        to_end(ahead, events_log, lake)
    assert rows_of(lake, ahead)["_code"].to_list() == [None, "duplicate", None, *["duplicate"] * 3]


def test_an_event_dated_ahead_is_remembered_under_a_contract_that_admits_none_such(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ahead = attrs.evolve(contract, max_ahead=timedelta(days=1), dedup_within=timedelta(days=1))
    present = now()
    events_log.create("clicks")
    events_log.append("clicks", [click(1, at=(present + timedelta(hours=20)).isoformat())])
    to_end(ahead, events_log, lake)
    events_log.append("clicks", [click(1, at=present.isoformat())])
    (progress,) = to_end(attrs.evolve(ahead, max_ahead=timedelta(minutes=5), version=2), events_log, lake)
    assert (progress.good, progress.refused) == (0, Counter(duplicate=1))


def test_a_log_trimmed_before_it_was_read_is_said_and_gone_on_from(
    contract: Contract, events_log: Log, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    events_log.append("clicks", [click(2)])
    events_log.trim("clicks", {0: 1})
    (told,) = to_end(contract, events_log, lake)
    assert (told.good, told.position.offsets, told.lost) == (1, {0: 2}, 1)
    assert "trimmed to 1, but read only up to 0" in caplog.text
    events_log.append("clicks", [click(3)])
    events_log.trim("clicks", {0: 3})
    assert to_end(contract, events_log, lake) == []


def test_unknown_fields_are_counted_across_commits_and_processes(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create(contract.topic)
    events_log.append(contract.topic, [click(1, color="red"), click(2), click(3, color="red")])
    (first,) = to_end(contract, events_log, lake)
    assert (first.good, first.extra) == (3, {"color": 2})
    events_log.append(contract.topic, [click(4)])
    (second,) = to_end(contract, events_log, lake)
    assert second.extra == {}
    events_log.append(contract.topic, [click(5, color="red", size=1), click(6, size=2)])
    to_end(contract, events_log, lake)
    table = lake.table(contract.table)
    assert json.loads(table.property(UNDECLARED_FIELDS) or "") == {"color": 3, "size": 1}
    said = [snapshot.summary.get(UNDECLARED_FIELDS) for snapshot in table.snapshots()]
    assert said == ['{"color": 2}', None, '{"color": 1, "size": 1}']


def test_many_short_runs_do_not_gather_small_files(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.maintenance.FILES", 10)
    events_log.create(contract.topic)
    for number in range(10):
        events_log.append(contract.topic, [click(number)])
        to_end(contract, events_log, lake)
    head = lake.table(contract.table).current_snapshot()
    assert head is not None
    assert int(head.summary["total-data-files"]) == 1
    assert head.rows == 10


def test_what_the_log_forgets_under_a_running_ingest_is_said(
    contract: Contract, events_log: Log, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    ingest = Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1)])
    assert ingest.step() is not None
    for number in (2, 3, 4):
        events_log.append("clicks", [click(number)])
    events_log.trim("clicks", {0: 3})
    progress = ingest.step()
    assert progress is not None
    assert (progress.good, progress.lost) == (1, 2)
    assert "up to 2 events are lost" in caplog.text


def test_a_topic_that_is_made_again_under_a_running_ingest_is_refused(
    contract: Contract, events_log: Log, lake: Lake, settings: Any
) -> None:
    ingest = Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1)])
    assert ingest.step() is not None
    for path in settings.place("log").iterdir():
        path.unlink()
    events_log.create("clicks")
    events_log.append("clicks", [click(2), click(3)])
    with pytest.raises(Refused, match="created again"):
        ingest.step()
    assert rows_of(lake, contract)["user"].to_list() == [1]
