"""The verb `send`: an event too large for the topic is reported, and the others are sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from services.kafka import Broker
from tests.log.topics import read_all
from tests.tiny import write

from headrace import log
from headrace.cli.main import _exit_code
from headrace.config.settings import Settings, load_settings
from headrace.kernel.ids import new_id
from headrace.log import Log

CONTRACT = """
from datetime import datetime
from headrace import Struct, event

@event(topic="TOPIC", time="at", key="user")
class Click(Struct):
    at: datetime
    user: str
    note: str = ""
"""


@pytest.fixture
def topic() -> str:
    return f"sent-{new_id()}"


@pytest.fixture
def settings(tmp_path: Path, topic: str, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HEADRACE_LOG", broker.url)
    return load_settings(write(tmp_path / "project", CONTRACT.replace("TOPIC", topic)))


def click(user: str, note: str = "") -> str:
    return json.dumps({"at": "2026-03-01T12:00:00Z", "user": user, "note": note})


def users(events: Log, topic: str) -> list[str]:
    records = read_all(events, topic)
    return [json.loads(records[position])["user"] for position in sorted(records)]


def test_too_large_events_are_reported_by_number_and_the_others_are_sent(
    settings: Settings, topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [click("a"), click("b", "x" * 2_000_000), click("c"), click("k" * 1_100_000), click("e")]
    file = settings.root / "events.ndjson"
    file.write_text("\n".join(lines))
    assert _exit_code(["send", topic, str(file), "--project", str(settings.root)]) == 1
    printed = capsys.readouterr()
    assert "Sent 3 events" in printed.out
    assert f"2 events not sent, larger than topic '{topic}' accepts: number 2, 4 of the file" in printed.err
    assert str(file) in printed.err
    events = log.open(settings.log.url)
    assert users(events, topic) == ["a", "c", "e"]
    events.close()
