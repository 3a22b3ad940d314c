"""The verbs on refused events: `quarantine list`, `show`, `replay` and `alerts`, and `why`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace import lake, log
from headrace.cli.main import _exit_code
from headrace.config.settings import Settings, load_settings
from headrace.flows.events.ingest import ingest
from headrace.workspace import Workspace

EVENTS = """
from datetime import datetime
from typing import Annotated
from headrace import Meta, Struct, event

@event(topic="clicks", time="at", key="user")
class Click(Struct):
    at: datetime
    user: int
    price: Annotated[float, Meta(gt=LOWEST)]
"""
HOSTILE = b'{"at": "2026-03-01T12:00:00Z", "user": 7, "price": 1, "\x1b]0;owned\x07\xe2\x80\xae\xff'

Run = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    root = tmp_path / "project"
    (root / "clicking").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "clicking"\n')
    (root / "clicking" / "__init__.py").write_text("")
    write_contract(root, lowest=0)
    yield load_settings(root)
    unload_project()


@pytest.fixture
def headrace(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process; returns its stdout, or its stderr if it must fail."""

    def call(*arguments: str, code: int = 0) -> str:
        assert _exit_code([*arguments, "--project", str(settings.root)]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return call


def write_contract(root: Path, lowest: float) -> None:
    (root / "clicking" / "events.py").write_text(EVENTS.replace("LOWEST", str(lowest)))
    unload_project()


def unload_project() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "clicking"]:
        del sys.modules[name]


def click(user: int, price: float) -> bytes:
    return json.dumps({"at": "2026-03-01T12:00:00Z", "user": user, "price": price}).encode()


def send_events(settings: Settings, *values: bytes) -> None:
    opened = log.open(settings.log.url)
    opened.create("clicks")
    opened.append("clicks", list(values), [b"k"] * len(values), [{"from": b"a test"}] * len(values))
    opened.close()


def test_a_refused_event_is_admitted_by_a_replay_after_the_fix(settings: Settings, headrace: Run) -> None:
    send_events(settings, click(1, 2), click(2, -1), click(3, -2), HOSTILE)
    ingest(Workspace(settings), until_end=True)
    groups = json.loads(headrace("quarantine", "list", "--json"))["clicks"]
    assert [(g["code"], g["count"], g["share"]) for g in groups] == [
        ("out_of_range", 2, 0.5),
        ("not_json", 1, 0.25),
    ]
    assert "50.00%" in headrace("quarantine", "list")
    assert headrace("quarantine", "show", "clicks", "0:1").startswith("0:1  20")

    (shown,) = json.loads(headrace("quarantine", "show", "clicks", "--code", "not_json", "--json"))
    assert (shown["raw_encoding"], shown["offset"]) == ("base64", 3)
    refused = json.loads(headrace("why", "clicks@0:1", "--json"))
    assert (refused["state"], refused["first"], refused["key"]) == ("refused", [0, 1], "k")
    assert refused["headers"] == {"from": "a test"}
    assert [(v["code"], v["field"], v["admitted"]) for v in refused["outcomes"]] == [
        ("out_of_range", "price", False)
    ]

    write_contract(settings.root, lowest=-1.5)  # fixes the contract
    assert "2 events" in headrace("quarantine", "replay", "clicks", "--field", "price", "--dry-run")
    assert "Replayed 2 events" in headrace("quarantine", "replay", "clicks", "--field", "price")
    assert "was not ingested yet" in headrace("why", "clicks@0:4")
    ingest(Workspace(settings), until_end=True)
    replayed = json.loads(headrace("why", "clicks@0:4", "--json"))
    assert (replayed["state"], replayed["first"], replayed["raw"]) == (
        "admitted",
        [0, 1],
        click(2, -1).decode(),
    )
    assert replayed["values"]["price"] == -1
    assert [(v["offset"], v["admitted"]) for v in replayed["outcomes"]] == [(1, False), (4, True)]
    assert json.loads(headrace("why", "clicks@0:1", "--json"))["outcomes"] == replayed["outcomes"]
    unresolved = headrace("why", "clicks@0:5")
    assert "waits in quarantine" in unresolved
    assert unresolved.count("refused") == 2


def test_no_control_character_of_an_event_reaches_the_terminal(settings: Settings, headrace: Run) -> None:
    field = json.dumps({"at": "2026-03-01T12:00:00Z", "user": 1, "price": 1, "\x1b[2Jx": "\u202e"})
    send_events(settings, HOSTILE, field.encode(), b'{"at": "\x9b31m' + "\u009b31m".encode() + b'"}')
    for printed in (
        headrace("ingest", "--until-end"),
        headrace("quarantine", "list"),
        headrace("quarantine", "show", "clicks"),
        headrace("why", "clicks@0:0"),
        headrace("why", "clicks@0:1"),
        headrace("why", "clicks@0:2"),
        headrace("quarantine", "show", "clicks", "--json"),
    ):
        assert printed
        assert all(c.isprintable() or c == "\n" for c in printed)


def test_a_long_event_is_cut_unless_whole_is_requested(settings: Settings, headrace: Run) -> None:
    send_events(settings, b"x" * 100_000)
    ingest(Workspace(settings), until_end=True)
    assert len(headrace("quarantine", "show", "clicks")) < 3_000
    assert len(headrace("quarantine", "show", "clicks", "--whole")) > 100_000


def test_unknown_positions_topics_and_times_are_errors_with_a_reason(settings: Settings, headrace: Run) -> None:
    assert "the topic has no events yet" in headrace("why", "clicks@0:0", code=2)
    send_events(settings, click(1, 1))
    ingest(Workspace(settings), until_end=True)
    assert "Log partition 0 has offsets 0 to 0" in headrace("why", "clicks@0:9", code=2)
    assert "1 log partition, numbered from 0" in headrace("why", "clicks@3:0", code=2)
    assert "the contract of topic 'nowhere' does not exist" in headrace("why", "nowhere@0:0", code=2)
    assert "not a position" in headrace("quarantine", "show", "clicks", "zero", code=2)
    assert "not a moment" in headrace("quarantine", "show", "clicks", "--since", "yesterday", code=2)
    assert "No waiting event matches" in headrace("quarantine", "replay", "clicks", "--since", "2h")


def test_after_a_trim_why_shows_what_the_table_has(settings: Settings, headrace: Run) -> None:
    send_events(settings, click(1, 1), click(2, -1))
    ingest(Workspace(settings), until_end=True)
    opened = log.open(settings.log.url)
    opened.trim("clicks", {0: 2})
    opened.close()
    good, refused = (json.loads(headrace("why", f"clicks@0:{at}", "--json")) for at in (0, 1))
    assert (good["state"], good["raw"]) == ("admitted", None)
    assert "the log deleted them" in good["notes"][0]
    assert (refused["state"], refused["raw"]) == ("refused", click(2, -1).decode())


def test_an_alert_that_ingest_raised_is_listed(settings: Settings, headrace: Run) -> None:
    assert headrace("quarantine", "alerts") == "No alert is open.\n"
    send_events(settings, *[click(n, -1) for n in range(250)])
    ingest(Workspace(settings), until_end=True)
    (alert,) = json.loads(headrace("quarantine", "alerts", "--json"))
    assert (alert["subject"], alert["facts"]["code"], alert["severity"]) == (
        "clicks",
        "out_of_range",
        "critical",
    )
    assert "100.00% of 250 events" in headrace("quarantine", "alerts")
    ingest(Workspace(settings), until_end=True)  # ingests the topic of alerts, which now has an event
    rows = lake.open(settings).table("headrace_alerts").scan().collect()
    assert rows["alert"].to_list() == [alert["id"]]
