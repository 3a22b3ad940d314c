"""The command `ingest`: its reports, how it ends, and how it adopts new code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.until import until

from headrace import lake, log
from headrace.config.settings import Settings, load_settings
from headrace.features import online
from headrace.features.offline.rowwise import codes_of
from headrace.features.online.backfill import fill
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
)
from headrace.flows.events.code_watch import NewerCode
from headrace.flows.events.ingest import ingest
from headrace.flows.events.ingest_workers import ingest_by_workers
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.time import from_micros, now_micros
from headrace.projects.project import load_project
from headrace.runtime.child import start_child
from headrace.workspace import Workspace

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="clicks", time="at", key="user", partitions=3)
class Click(Struct):
    at: datetime
    user: int
    price: float
"""
TABLES = """
import polars as pl
from headrace import day, table
from clicking.events import Click

@table(reads=Click, partition_by=day("at"), rowwise=True)
def clean(clicks):
    return clicks.filter(pl.col("price") > 1)
"""
HOUR = 3_600_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    root = tmp_path / "project"
    (root / "clicking").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "clicking"\n')
    (root / "clicking" / "__init__.py").write_text("")
    (root / "clicking" / "events.py").write_text(EVENTS)
    (root / "clicking" / "tables.py").write_text(TABLES)
    yield load_settings(root)
    for name in [name for name in sys.modules if name.split(".")[0] == "clicking"]:
        del sys.modules[name]


def send(settings: Settings, count: int, **more: object) -> None:
    opened = log.open(settings.log.url)
    opened.create("clicks", 3)
    now = from_micros(now_micros()).isoformat()
    opened.append(
        "clicks",
        [json.dumps({"at": now, "user": n, "price": 2.0, **more}).encode() for n in range(count)],
        [b"%d" % n for n in range(count)],
    )
    opened.close()


def plan_of(code: str) -> FeaturePlan:
    counted = Aggregation("n", "price", AggregateFunction("count"), HOUR, HOUR // 12, "int64")
    view = WindowedView(
        "activity",
        ("user",),
        "clicks",
        "clean",
        "clean",
        "at",
        (PlanField("price", "float64"),),
        (counted,),
        code,
    )
    return FeaturePlan(
        "m",
        (EntityKey("user", "user", "int64"),),
        (view,),
        (FeatureRef("activity", "n", "int64"),),
        (),
        "model",
    )


def test_ingest_ends_once_a_build_has_filled_views_from_newer_code(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    send(settings, 5)
    ingest(Workspace(settings), until_end=True)
    opened, store = lake.open(settings), online.open(settings)
    project = load_project(settings)
    old = plan_of(codes_of(project)["clean"])
    fill(project, opened, old, store)
    stop, has_committed = threading.Event(), threading.Event()
    send(settings, 1)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            ingest,
            Workspace(settings),
            stop=stop,
            end_on_newer_code=True,
            progress=lambda _: has_committed.set(),
        )
        try:
            assert has_committed.wait(60)
            tables = settings.root / "clicking" / "tables.py"
            tables.write_text(TABLES.replace("> 1)", "> 1.5)"))
            edited = load_project(settings)
            fill(edited, opened, plan_of(codes_of(edited)["clean"]), store)
            with pytest.raises(NewerCode, match="restarts with the new code"):
                running.result(60)
        finally:
            stop.set()
    store.close()
    caplog.clear()
    send(settings, 1)
    ingest(Workspace(settings), until_end=True)  # as the process that replaces it does
    assert "no longer follows" not in caplog.text  # the new view has replaced the old one


def test_ingest_ends_once_another_process_has_adopted_an_edited_contract(settings: Settings) -> None:
    send(settings, 5)
    stop, has_committed = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            ingest,
            Workspace(settings),
            stop=stop,
            end_on_newer_code=True,
            progress=lambda _: has_committed.set(),
        )
        try:
            assert has_committed.wait(60)
            events = settings.root / "clicking" / "events.py"
            events.write_text(EVENTS + "    channel: str | None = None\n")
            output = call(settings, "status").stdout
            assert "clicks: its contract was edited; the next ingest adopts it" in output
            send(settings, 1, channel="web")
            assert call(settings, "ingest", "--until-end").returncode == 0
            with pytest.raises(NewerCode, match="contract of topic clicks was edited"):
                running.result(60)
        finally:
            stop.set()
    assert "was edited" not in call(settings, "status").stdout


def test_status_shows_a_contract_that_ingest_refuses(settings: Settings) -> None:
    send(settings, 1)
    ingest(Workspace(settings), until_end=True)
    events = settings.root / "clicking" / "events.py"
    events.write_text(EVENTS.replace("user: int", "user: str"))
    output = call(settings, "status").stdout
    assert "clicks: ingest refuses its contract" in output
    assert "user" in output


def test_undeclared_fields_are_reported(settings: Settings) -> None:
    send(settings, 3, color="red")
    result = call(settings, "ingest", "--until-end")
    assert result.returncode == 0, result.stderr
    assert "color 3" in result.stdout
    report = ingest(Workspace(settings), until_end=True)
    assert report.topics == {}
    assert json.loads(call(settings, "status", "--json").stdout)["topics"][0]["extra"] == {"color": 3}


def call(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", *arguments],
        cwd=settings.root,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_ctrl_c_ends_ingest_without_a_traceback_and_the_next_one_continues(settings: Settings) -> None:
    send(settings, 3)
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "ingest"],
        cwd=settings.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "3 events" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    send(settings, 2)
    assert ingest(Workspace(settings), until_end=True).events == 2
    assert len(lake.open(settings).table("clicks").scan().collect()) == 5


def test_workers_divide_the_topic_and_end_together(settings: Settings) -> None:
    send(settings, 600)
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "ingest", "--workers", "2"],
        cwd=settings.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    events = 0
    while events < 600:
        events += int(process.stdout.readline().split()[1].replace(",", ""))
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: every process of the group gets the signal
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err.strip()) == (130, "interrupted")
    assert "600 events in" in out
    assert len(lake.open(settings).table("clicks").scan().collect()) == 600


def test_more_workers_than_log_partitions_are_refused(settings: Settings) -> None:
    send(settings, 1)
    with pytest.raises(CallError, match="the most is 3"):
        ingest_by_workers(Workspace(settings), ["clicks"], 4)


def test_an_error_of_a_worker_ends_all_workers_and_is_raised(settings: Settings) -> None:
    send(settings, 5)
    ingest(Workspace(settings), until_end=True)
    for path in settings.place("log").glob("clicks.db*"):
        path.unlink()
    send(settings, 5)  # to a new topic of the same name
    with pytest.raises(Refused, match="created again"):
        ingest_by_workers(Workspace(settings), ["clicks"], 2, until_end=True)


def test_a_hanging_ingest_is_replaced_and_no_event_is_lost_or_duplicated(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, 50)
    child = start_child("ingest", settings)
    reports: list[str] = []
    try:
        until(lambda: child.check_start())
        until(lambda: count_rows(settings) == 50)
        stopped = child.process.pid
        monkeypatch.setattr("headrace.kernel.children._SILENT", 3.0)
        os.kill(stopped, signal.SIGSTOP)
        send(settings, 50)

        def is_replaced() -> bool:
            child.supervise(reports.append)
            return child.process.pid != stopped and child.ready

        until(is_replaced)
        assert "sent no heartbeat" in reports[0]
        until(lambda: count_rows(settings) == 100)
    finally:
        child.terminate()
        child.end(time.monotonic() + 20)
    rows = lake.open(settings).table("clicks").scan().collect()
    assert rows["_valid"].all()
    assert rows.select("_log_partition", "_log_offset").is_unique().all()
    assert rows.height == 100


def count_rows(settings: Settings) -> int:
    opened = lake.open(settings)
    return opened.table("clicks").scan().collect().height if opened.table_exists("clicks") else 0
