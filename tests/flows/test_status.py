"""The verbs `status` and `doctor`: their findings on the spool, lineage and alerts."""

from __future__ import annotations

import subprocess
import sys

import httpx
import msgspec
import pytest
from tests.servers import Endpoint

from headrace import lineage
from headrace import log as logs
from headrace.alerts.record import TOPIC, Alert
from headrace.config.settings import Settings
from headrace.flows.project.doctor import doctor
from headrace.flows.project.status import status
from headrace.kernel.errors import Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.run import record_with, run
from headrace.kernel.time import now
from headrace.lake.catalog import open_catalog
from headrace.lineage.forward import Sender
from headrace.serving.shipper import ship
from headrace.serving.spool import Spool
from headrace.workspace import Workspace


def run_verb(settings: Settings, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", *arguments],
        cwd=settings.root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.stdout + process.stderr


def test_on_a_full_disk_each_verb_says_what_cannot_be_read_and_no_table_counts_as_never_made(
    tiny: Settings,
) -> None:
    assert "never" in run_verb(tiny, "status")
    open_catalog(tiny)
    store = lineage.open(tiny)
    store.health()
    store.close()

    def run_on_full_disk(*arguments: str, largest: int = 1000) -> str:
        # To read a file in WAL mode, SQLite makes a second file, which may not grow to its 32 KiB.
        code = (
            f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}));"
            "from headrace.cli.main import main; main(sys.argv[1:])"
        )
        process = subprocess.run(
            [sys.executable, "-B", "-c", code, *arguments],
            cwd=tiny.root,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 1
        assert "This is a bug" not in process.stderr
        return process.stdout + process.stderr

    output = run_on_full_disk("status")
    assert "the catalog cannot be read or written: disk I/O error" in output
    assert "the lineage store cannot be read or written: disk I/O error" in output
    assert "never" not in output
    assert output.count("unknown") == 3
    # If not even a temporary file can be written, dill, which Feast imports, cannot be imported.
    output = run_on_full_disk("status", largest=0)
    assert "Cannot be built yet: No usable temporary directory found" in output
    output = run_on_full_disk("doctor")
    assert "the lineage store cannot be read or written: disk I/O error" in output
    output = run_on_full_disk("lineage")
    assert "Check that the disk has room" in output


def test_predictions_left_in_the_spool_are_a_finding_until_they_are_shipped(tiny: Settings) -> None:
    assert [d for d in doctor(Workspace(tiny)) if d.what == "predictions"] == []
    spool = Spool(tiny.place("serving", "spool"))
    spool.append(b"{}", b"{}")
    spool.close()
    (finding,) = [d for d in doctor(Workspace(tiny)) if d.what == "predictions"]
    assert not finding.fine
    assert finding.detail.startswith("2 ")
    log = logs.open(tiny.log.url)
    log.create("headrace.predictions")
    ship(tiny.place("serving", "spool"), log)
    log.close()
    assert [d for d in doctor(Workspace(tiny)) if d.what == "predictions"] == []


def test_dropped_and_failing_lineage_is_reported_without_the_endpoints_password(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(Workspace(tiny)).lineage is None
    url = "http://anna:opensesame@127.0.0.1:9"
    settings = tiny.with_values(lineage=(url,))
    monkeypatch.setenv("HEADRACE_LINEAGE", url)
    store = lineage.open(settings)
    with store.recorder() as recorder, record_with(recorder), run("work"):
        pass
    store.mark_failed(url, str(Unavailable("it does not answer")))
    store._write([], 3, "the disk was full")
    store.close()
    output = run_verb(settings, "status")
    assert "3 events were dropped: the disk was full" in output
    assert "it does not answer" in output
    reports = output + run_verb(settings, "doctor")
    assert "3 dropped" in reports
    assert "opensesame" not in reports
    assert b"opensesame" not in b"".join(file.read_bytes() for file in settings.state.glob("lineage.db*"))


def test_doctor_shows_lineage_events_that_an_endpoint_refused(tiny: Settings) -> None:
    server = Endpoint(usual=201)
    settings = tiny.with_values(lineage=(server.url,))
    store = lineage.open(settings)
    with store.recorder() as recorder, record_with(recorder), run("work"):
        pass

    def diagnosis() -> tuple[bool, str]:
        (finding,) = [d for d in doctor(Workspace(settings)) if d.what == f"lineage {server.url}"]
        return finding.fine, finding.detail

    server.answers = [422, 422]
    with httpx.Client() as client:
        Sender(store, server.url, client).send()
        assert diagnosis() == (False, "it answered 422: ; it has refused 2 events")
        with store.recorder() as recorder, record_with(recorder), run("work"):
            pass
        Sender(store, server.url, client).send()
    assert diagnosis() == (True, "it accepts events; it has refused 2 events")
    store.close()
    server.close()


def test_status_shows_open_alerts(tiny: Settings) -> None:
    assert status(Workspace(tiny)).alerts == ()
    alert = Alert(
        id=new_id(),
        alert="a",
        number=1,
        at=now(),
        source="refusals",
        subject="clicks",
        reason="missing (user)",
        state="raised",
        severity="critical",
        why="50.00% of 100 events in 5m refused",
        look="headrace quarantine show clicks",
        facts={"refused": 50, "events": 100},
    )
    resolved = msgspec.structs.replace(alert, id=new_id(), alert="b", reason="late", state="resolved")
    log = logs.open(tiny.log.url)
    log.create(TOPIC)
    log.append(TOPIC, [msgspec.json.encode(change) for change in (alert, resolved)])
    log.close()
    assert [alert.alert for alert in status(Workspace(tiny)).alerts] == ["a"]
    output = run_verb(tiny, "status")
    assert "critical" in output
    assert alert.why in output
    assert "late" not in output


def test_a_store_and_a_registry_on_a_server_are_findings_while_it_is_away(
    tiny: Settings, empty_database: str
) -> None:
    def read(address: str) -> tuple[list[str], dict[str, tuple[bool, str]]]:
        workspace = Workspace(tiny.with_values(online=address, feast_registry=address))
        findings = {d.what: (d.fine, d.detail) for d in doctor(workspace) if address in d.what}
        return [problem for problem in status(workspace).problems if address in problem], findings

    assert read(empty_database) == (
        [],
        {
            f"online {empty_database}": (True, "0 feature views"),
            f"feast registry {empty_database}": (True, "is empty; headrace build fills it"),
        },
    )
    away = "postgresql://anna@127.0.0.1:1/features"
    problems, findings = read(away)
    assert len(problems) == 1
    assert "the PostgreSQL server cannot be reached" in problems[0]
    assert [fine for fine, _ in findings.values()] == [False, False]
