"""Ingest: every event is stored once with its position, whatever restarts, races and fails."""

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
from headrace.kernel.errors import Conflict, HeadraceError, Refused, Unavailable
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import LATEST_ARRIVAL, UNDECLARED_FIELDS
from headrace.kernel.run import RunEvent, record_with
from headrace.kernel.time import now, parse_duration
from headrace.lake import Lake, Unwritable
from headrace.lineage.event import RunRecord, copy_event, openlineage_event
from headrace.lineage.names import Names
from headrace.log import Log
from headrace.log.partition import partition_of


class MemorySink:
    """A sink that keeps its rows and its position in memory."""

    name = "memory"
    is_raw = False

    def __init__(self) -> None:
        self.at: LogPosition | None = None
        self.rows: list[dict[str, Any]] = []
        self.away = False
        self.schemas: set[pa.Schema] = set()

    def position(self) -> LogPosition | None:
        return self.at

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        if self.away:
            raise Unavailable("the sink is away")
        self.schemas.add(events.schema)
        applied = self.at or LogPosition(position.topic, position.log_id)
        new = [r for r in events.to_pylist() if not applied.covers(r["_log_partition"], r["_log_offset"])]
        self.rows += new
        self.at = applied.advance(position.offsets)

    @property
    def users(self) -> list[int]:
        return [row["user"] for row in self.rows]


def table_rows(lake: Lake, contract: Contract) -> pl.DataFrame:
    return lake.table(contract.table).scan().sort("_log_partition", "_log_offset").collect()


def ingest_to_end(contract: Contract, log: Log, lake: Lake, *sinks: MemorySink) -> list[Progress]:
    """Ingests the log to its end; returns the commits."""
    commits: list[Progress] = []
    Ingest(contract, log, lake, sinks).run(
        until_end=True, stop=threading.Event(), hooks=IngestHooks(commits.append)
    )
    return commits


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
    rows = table_rows(lake, contract)
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


def test_a_new_process_continues_and_remembers_earlier_events(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1), click(2)])
    ingest_to_end(contract, events_log, lake)
    events_log.append("clicks", [click(3), click(2), click(1)])
    (progress,) = ingest_to_end(contract, events_log, lake)
    assert (progress.good, progress.refused) == (1, Counter(duplicate=2))
    assert table_rows(lake, contract).filter("_valid")["user"].to_list() == [1, 2, 3]


def test_many_batches_over_several_log_partitions_store_each_event_once(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 70)
    monkeypatch.setattr("headrace.events.ingest.ingest.TRICKLE", 0)
    wide = attrs.evolve(contract, partitions=3)
    events_log.create("clicks", 3)
    events_log.append("clicks", [click(n) for n in range(500)], [b"%d" % n for n in range(500)])
    sink = MemorySink()
    commits = ingest_to_end(wide, events_log, lake, sink)
    assert sum(progress.good for progress in commits) == 500
    assert len(commits) > 5
    assert sorted(sink.users) == sorted(table_rows(lake, contract)["user"].to_list()) == list(range(500))
    assert sink.at == commits[-1].position
    assert commits[-1].position.offsets == events_log.end("clicks")


def test_the_slower_of_two_concurrent_ingests_gets_a_conflict_and_stores_nothing_twice(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    faster, slower = Ingest(contract, events_log, lake), Ingest(contract, events_log, lake)
    events_log.append("clicks", [click(1), click(2)])
    assert faster.step() is not None
    with pytest.raises(Conflict):
        slower.step()
    assert slower.step() is None
    events_log.append("clicks", [click(1), click(3)])
    progress = slower.step()
    assert progress is not None
    assert (progress.good, progress.refused) == (1, Counter(duplicate=1))
    assert table_rows(lake, contract)["_log_offset"].to_list() == [0, 1, 2, 3]


def test_a_sink_gets_the_good_events_in_order(contract: Contract, events_log: Log, lake: Lake) -> None:
    sink = MemorySink()
    ingest = Ingest(contract, events_log, lake, [sink])
    events_log.append("clicks", [click(1), b"{}", click(2)])
    ingest.step()
    assert sink.users == [1, 2]
    assert sink.at == ingest.position
    assert sink.schemas == {sink_schema(contract)}


def test_a_new_sink_catches_up_from_the_table_though_the_log_was_trimmed(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.sinks.CHUNK", 3)
    events_log.create("clicks")
    events_log.append("clicks", [click(n) if n % 3 else b"no" for n in range(20)])
    ingest_to_end(contract, events_log, lake)
    events_log.trim("clicks", {0: 20})
    sink = MemorySink()
    ingest_to_end(contract, events_log, lake, sink)
    assert sink.users == [n for n in range(20) if n % 3]
    assert sink.at == LogPosition("clicks", events_log.identity("clicks"), {0: 20})
    assert sink.schemas == {sink_schema(contract)}


def test_an_unavailable_sink_delays_neither_the_table_nor_other_sinks(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    sink, other_sink = MemorySink(), MemorySink()
    sink.away = True
    ingest = Ingest(contract, events_log, lake, [sink, other_sink])
    for number in (1, 2):
        events_log.append("clicks", [click(number)])
        with pytest.raises(Unavailable, match="away"):
            ingest.step()
    assert other_sink.users == [1, 2]
    assert table_rows(lake, contract)["user"].to_list() == [1, 2]
    sink.away = False
    events_log.append("clicks", [click(3)])
    ingest.step()
    assert sink.users == [1, 2, 3]


def test_a_sink_is_never_ahead_of_a_table_whose_catalog_is_unavailable(
    contract: Contract, events_log: Log, lake: Lake, settings: Settings
) -> None:
    sink = MemorySink()
    ingest = Ingest(contract, events_log, lake, [sink])
    events_log.append("clicks", [click(1)])
    ingest.step()
    events_log.append("clicks", [click(2)])
    path = settings.place("lake", "catalog.db")
    away = path.rename(path.with_name("away.db"))
    with pytest.raises(HeadraceError):  # the catalog is empty: it does not have the table
        ingest.step()
    path.unlink()  # the failed step made SQLite create an empty file
    away.rename(path)
    progress = ingest.step()
    assert progress is not None
    assert sink.users == table_rows(lake, contract)["user"].to_list() == [1, 2]


def test_a_sink_of_another_log_is_refused(contract: Contract, events_log: Log, lake: Lake) -> None:
    sink = MemorySink()
    sink.at = LogPosition("clicks", "another", {0: 5})
    ingest = Ingest(contract, events_log, lake, [sink])
    events_log.append("clicks", [click(1)])
    with pytest.raises(Refused, match="another log"):
        ingest.step()


def test_a_recreated_topic_is_refused(contract: Contract, events_log: Log, lake: Lake, settings: Any) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    ingest_to_end(contract, events_log, lake)
    events_log.close()
    for path in settings.place("log").iterdir():
        path.unlink()
    events_log.create("clicks")
    with pytest.raises(Refused, match="created again") as raised:
        Ingest(contract, events_log, lake)
    assert raised.value.remedy


def test_ingest_runs_until_it_is_stopped_and_records_its_run(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    stop, reached = threading.Event(), threading.Event()
    events: list[RunEvent] = []

    class Recorder:
        def record(self, event: RunEvent) -> None:
            events.append(event)

    def note_progress(progress: Progress) -> None:
        if progress.position.offsets == {0: 4}:
            reached.set()

    with record_with(Recorder()):
        thread = threading.Thread(
            target=ingest_all,
            args=([contract], events_log, lake),
            kwargs={"until_end": False, "stop": stop, "hooks": IngestHooks(note_progress)},
        )
        thread.start()
        events_log.create("clicks")
        events_log.append("clicks", [click(1), click(2)])
        events_log.append("clicks", [click(3), b"no"])
        assert reached.wait(60)
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert (events[0].outcome, events[-1].outcome) == ("START", "COMPLETE")
    run = events[-1].run
    assert run.job == "ingest clicks"
    assert run.inputs[0].position == LogPosition("clicks", events_log.identity("clicks"), {0: 4})
    facts = dict(run.outputs[0].facts)
    fields = contract.struct.__struct_fields__
    assert list(facts.pop("schema")) == list(fields)
    assert facts.pop("columns") == {field: [f"clicks.{field}"] for field in fields}
    assert facts == {"rows": 4, "good": 3, "refused": {"not_json": 1}}


def test_an_ingest_names_its_table_from_its_start_and_if_it_reads_nothing(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    records: list[RunRecord] = []

    class Recorder:
        def record(self, event: RunEvent) -> None:
            records.append(copy_event(event))

    with record_with(Recorder()):
        ingest_to_end(contract, events_log, lake)
        events_log.append("clicks", [click(1)])
        ingest_to_end(contract, events_log, lake)
        ingest_to_end(contract, events_log, lake)
    snapshot = lake.table("clicks").current_snapshot()
    assert snapshot is not None
    shown = []
    for record in records:
        event = openlineage_event(record, Names("tiny"), "1")
        assert event is not None
        (source,), (target,) = event["inputs"], event["outputs"]
        assert (source["name"], target["name"]) == ("topic/clicks", "table/clicks")
        fields = [field["name"] for field in source["facets"]["schema"]["fields"]]
        assert [field["name"] for field in target["facets"]["schema"]["fields"]] == fields
        assert list(target["facets"]["columnLineage"]["fields"]) == fields
        shown.append((event["eventType"], target["facets"].get("version", {}).get("datasetVersion")))
    at = str(snapshot.id)
    assert shown == [
        ("START", None),
        ("COMPLETE", None),
        ("START", None),
        ("RUNNING", at),
        ("COMPLETE", at),
        ("START", at),
        ("COMPLETE", at),
    ]


UNSTORABLE_TEXT = "-" * 15 + "\ud7ff" + "."
"""PyIceberg fails to compute the upper bound of a column whose greatest value is this text."""


@pytest.fixture
def plain_text_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Column statistics as PyIceberg computes them, without Headrace's fix."""
    monkeypatch.setattr("headrace.lake.pyiceberg_internals.set_text_bounds", lambda statistics: None)


def test_a_text_whose_upper_bound_pyiceberg_cannot_compute_is_stored(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append(
        "clicks", [click(1, note=UNSTORABLE_TEXT), click(2, note="\U0010ffff" * 20), click(3, note="x")]
    )
    ingest_to_end(contract, events_log, lake)
    rows = lake.table("clicks").scan().filter(pl.col("note") >= UNSTORABLE_TEXT).collect()
    assert sorted(rows["note"].to_list()) == sorted([UNSTORABLE_TEXT, "\U0010ffff" * 20, "x"])


@pytest.mark.usefixtures("plain_text_bounds")
@pytest.mark.parametrize("steps", [False, True])
def test_events_that_cannot_be_stored_are_quarantined_and_block_no_others(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch, steps: bool
) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 100)
    monkeypatch.setattr("headrace.events.ingest.ingest.TRICKLE", 0)
    events_log.create("clicks")
    numbers = range(350)
    unstorable = {7, 8, 120, 349}
    values = [click(n, note=UNSTORABLE_TEXT) if n in unstorable else click(n) for n in numbers]
    # An event that was not stored makes no later copy a duplicate: 8 is sent again twice, once storable.
    values += [click(8, note=UNSTORABLE_TEXT), click(8), click(9)]
    events_log.append("clicks", values)
    sink = MemorySink()
    if steps:
        ingest = Ingest(contract, events_log, lake, [sink])
        while ingest.step() is not None:
            pass
    else:
        ingest_to_end(contract, events_log, lake, sink)
    rows = table_rows(lake, contract)
    assert rows["_log_offset"].to_list() == list(range(len(values)))
    refused = rows.filter(~pl.col("_valid"))
    assert dict(refused.select("_log_offset", "_code").iter_rows()) == dict.fromkeys(
        [*sorted(unstorable), 350], "unwritable"
    ) | {352: "duplicate"}
    assert refused["_raw"].to_list() == [values[at] for at in refused["_log_offset"].to_list()]
    assert "surrogates not allowed" in refused["_reason"][0]
    assert refused.select(*contract.struct.__struct_fields__, "_field").null_count().row(0) == (6,) * 6
    assert sorted(sink.users) == sorted({*numbers} - unstorable | {8})
    position = read_position(lake.table("clicks"))
    assert position == LogPosition("clicks", events_log.identity("clicks"), {0: len(values)})
    # With the fix in place, a replay admits them.
    monkeypatch.undo()
    replay(contract, lake, events_log, QuarantineSelection(code="unwritable"))
    ingest_to_end(contract, events_log, lake, sink)
    assert set(sink.users) == set(numbers)


@pytest.mark.usefixtures("plain_text_bounds")
def test_an_ingest_that_met_an_unstorable_event_judges_as_a_new_process_would(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest = Ingest(contract, events_log, lake)
    events_log.append(
        "clicks", [click(1), click(90_000, user=1, note=UNSTORABLE_TEXT, at="2026-03-20T12:00:00Z")]
    )
    assert ingest.step() is not None
    events_log.append("clicks", [click(1)])
    progress = ingest.step()
    assert progress is not None
    assert progress.refused == Counter(duplicate=1)


def test_a_failure_to_store_every_row_quarantines_no_event(
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
        ingest_to_end(contract, events_log, lake)
    assert lake.table("clicks").current_snapshot() is None
    monkeypatch.undo()
    assert sum(progress.good for progress in ingest_to_end(contract, events_log, lake)) == 2


def test_an_event_that_raises_in_judging_is_quarantined(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    class UnprintableError(ValueError):
        def __str__(self) -> str:
            raise KeyError("no words")

    @event(topic="clicks", time="at", key="user")
    class Fragile(Struct):
        at: datetime
        user: int
        page: str

        def __post_init__(self) -> None:
            if self.user == 3:
                raise UnprintableError

    fragile = contract_of(Fragile)
    assert fragile is not None
    events_log.create("clicks")
    events_log.append("clicks", [click(n) for n in range(6)])
    (progress,) = ingest_to_end(fragile, events_log, lake)
    assert (progress.good, progress.refused) == (5, Counter(unwritable=1))
    assert table_rows(lake, fragile)["_raw"].to_list() == [None, None, None, click(3), None, None]


def test_an_identity_is_forgotten_once_the_watermark_passes_its_window(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1), click(9_000, user=2), click(1), click(9_000, user=2)])
    (progress,) = ingest_to_end(attrs.evolve(contract, dedup_within=timedelta(hours=1)), events_log, lake)
    # 9,000 s later the first event is forgotten, so its copy is admitted; the second is still remembered.
    assert (progress.good, progress.refused) == (3, Counter(duplicate=1))


@pytest.mark.parametrize("key", ["user", None])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_backlog_of_several_log_partitions_admits_no_copy(
    contract: Contract,
    events_log: Log,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    restarts: bool,
) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 90)
    wide = attrs.evolve(contract, key=key, partitions=3, dedup_within=timedelta(days=1))
    events_log.create("clicks", 3)
    hour = 3_600
    for begin in range(0, 600, 10):  # one event an hour; each batch of ten is sent twice
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


def test_a_new_process_remembers_the_events_of_a_log_partition_that_was_long_idle(
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
    ingest_to_end(wide, events_log, lake)
    events_log.append("clicks", [click(0), click(49 * day)], [key_in(0), key_in(2)])
    events_log.append("clicks", [click(7_200), click(1)], [key_in(1)] * 2)  # two hours later, then the first
    (progress,) = ingest_to_end(wide, events_log, lake)
    assert (progress.good, progress.refused) == (2, Counter(duplicate=2))


@pytest.mark.parametrize(("future", "within"), [("400d", "1h"), ("5m", "4m")])
def test_an_event_dated_ahead_does_not_make_others_forgotten(
    contract: Contract, events_log: Log, lake: Lake, future: str, within: str
) -> None:
    ahead = attrs.evolve(contract, max_ahead=parse_duration(future), dedup_within=parse_duration(within))
    events_log.create("clicks")
    present, later = now(), now() + ahead.max_ahead - timedelta(seconds=10)
    first, second = click(1, at=present.isoformat()), click(2, at=later.isoformat())
    for values in ([first, first], [second, first], [first, second]):  # one process for each
        events_log.append("clicks", values)
        ingest_to_end(ahead, events_log, lake)
    assert table_rows(lake, ahead)["_code"].to_list() == [None, "duplicate", None, *["duplicate"] * 3]


def test_an_event_dated_ahead_is_remembered_after_the_contract_lowers_max_ahead(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ahead = attrs.evolve(contract, max_ahead=timedelta(days=1), dedup_within=timedelta(days=1))
    present = now()
    events_log.create("clicks")
    events_log.append("clicks", [click(1, at=(present + timedelta(hours=20)).isoformat())])
    ingest_to_end(ahead, events_log, lake)
    events_log.append("clicks", [click(1, at=present.isoformat())])
    (progress,) = ingest_to_end(
        attrs.evolve(ahead, max_ahead=timedelta(minutes=5), version=2), events_log, lake
    )
    assert (progress.good, progress.refused) == (0, Counter(duplicate=1))


def test_ingest_warns_of_a_log_trimmed_before_it_was_read_and_continues(
    contract: Contract, events_log: Log, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    events_log.append("clicks", [click(2)])
    events_log.trim("clicks", {0: 1})
    (progress,) = ingest_to_end(contract, events_log, lake)
    assert (progress.good, progress.position.offsets, progress.lost) == (1, {0: 2}, 1)
    assert "trimmed to 1, but read only up to 0" in caplog.text
    events_log.append("clicks", [click(3)])
    events_log.trim("clicks", {0: 3})
    assert ingest_to_end(contract, events_log, lake) == []


def test_unknown_fields_are_counted_across_commits_and_processes(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create(contract.topic)
    events_log.append(contract.topic, [click(1, color="red"), click(2), click(3, color="red")])
    (first,) = ingest_to_end(contract, events_log, lake)
    assert (first.good, first.extra) == (3, {"color": 2})
    events_log.append(contract.topic, [click(4)])
    (second,) = ingest_to_end(contract, events_log, lake)
    assert second.extra == {}
    events_log.append(contract.topic, [click(5, color="red", size=1), click(6, size=2)])
    ingest_to_end(contract, events_log, lake)
    table = lake.table(contract.table)
    assert json.loads(table.property(UNDECLARED_FIELDS) or "") == {"color": 3, "size": 1}
    undeclared = [snapshot.summary.get(UNDECLARED_FIELDS) for snapshot in table.snapshots()]
    assert undeclared == ['{"color": 2}', None, '{"color": 1, "size": 1}']


def test_many_short_runs_leave_no_small_files(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.events.ingest.maintenance.FILES", 10)
    events_log.create(contract.topic)
    for number in range(10):
        events_log.append(contract.topic, [click(number)])
        ingest_to_end(contract, events_log, lake)
    head = lake.table(contract.table).current_snapshot()
    assert head is not None
    assert int(head.summary["total-data-files"]) == 1
    assert head.rows == 10


def test_a_running_ingest_warns_of_events_that_the_log_trimmed_unread(
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


def test_a_topic_recreated_under_a_running_ingest_is_refused(
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
    assert table_rows(lake, contract)["user"].to_list() == [1]
