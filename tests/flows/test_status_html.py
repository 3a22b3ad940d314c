"""A status in a notebook: every part of it is there, escaped, and has room."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.flows.models.aliases import ChampionMismatch, MovedAlias
from headrace.flows.project.freshness import TableStatus, TopicStatus
from headrace.flows.project.status import StaleStage, Status, status
from headrace.kernel.html import LIMIT
from headrace.kernel.ids import new_id
from headrace.projects.running import Up
from headrace.serving.models import ReleaseFailure
from headrace.serving.release import Arm, make
from headrace.workspace import Workspace

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def empty(tiny: Settings) -> Status:
    with Workspace(tiny) as workspace:
        return status(workspace)


def changed(state: Status, **parts: Any) -> Status:
    return msgspec.structs.replace(state, **parts)


def table_of(name: str) -> TableStatus:
    return TableStatus(name, True, 1, 20_000, AT, timedelta(hours=2), refused=(f"{name} has {HOSTILE}",))


def test_a_new_project_shows_itself(empty: Status) -> None:
    assert repr(empty).startswith(f"<status of {empty.project} on profile {empty.profile}: nothing runs; ")
    html = empty._repr_html_()
    assert html.startswith("<p><b>")
    assert "<td>never</td>" in html
    assert len(html.encode()) <= LIMIT


def test_each_part_is_shown_and_escaped(empty: Status) -> None:
    release = make("m", [Arm(7, 0.9), Arm(8, 0.1, name="challenger")], by="x", why="y")
    alert = Alert(
        new_id(),
        new_id(),
        1,
        AT,
        "refusals",
        f"topic {HOSTILE}",
        "rate",
        "raised",
        "critical",
        "why",
        "look",
        {},
    )
    state = changed(
        empty,
        problems=(f"the log {HOSTILE}",),
        stale=(StaleStage("train", (("code", "edited"),)),),
        blocked=None,
        next_step="write a model",
        waiting={"later": AT},
        topics=(TopicStatus("clicks", "clicks", 1_204, 4, is_exact=False, contract="edited"),),
        tables=(table_of("facts"),),
        alerts=(alert,),
        releases={"m": release},
        canaries={"m": "no outcomes"},
        moved_aliases=(MovedAlias("m", "champion", 3, 7),),
        failed_releases={"m": ReleaseFailure("r1", "broken")},
        unfilled={"m": "view facts is empty"},
        champion_mismatches=(ChampionMismatch("m", 9, 7),),
        endpoint_error="it is silent",
        building=12,
        up=Up(11, AT, "http://p", "http://c", "http://o", {}),
    )
    html = state._repr_html_()
    assert "<script" not in html
    for text in (
        "&lt;script&gt;",
        "<td>train</td><td>code: edited</td>",
        "<td>champion 7 0.9, challenger 8 0.1</td>",
        "release r1 could not be activated: broken; answers 503: view facts is empty; canary: unknown",
        "<td>later</td><td></td><td>takes newer inputs from 2026-03-01 12:00 UTC on</td>",
        "<td>≤ 1,204</td><td>≤ 4</td><td>edited</td>",
        "<td>facts</td><td>20000</td><td>2 h ago</td>",
        "<td>critical</td>",
        "<td>write a model</td>",
        "<td>it is silent</td>",
        "<td>http://o</td>",
    ):
        assert text in html, text
    assert repr(state) == (
        f"<status of {empty.project} on profile {empty.profile}: up runs; 1 problem; 1 stale stage;"
        " 1 open alert; 1 topic not ingested to the end>"
    )


def test_a_large_project_has_room(empty: Status) -> None:
    many = 5_000
    state = changed(
        empty,
        problems=tuple(f"{number} {'ä' * 500}" for number in range(many)),
        stale=tuple(StaleStage(f"{number}", (("code", "é" * 900),)) for number in range(many)),
        topics=tuple(TopicStatus(f"topic {number}", "t", 1, 0, contract="é" * 900) for number in range(many)),
        tables=tuple(table_of(f"table {number} {'é' * 300}") for number in range(many)),
        unfilled={f"model {number}": "é" * 900 for number in range(many)},
        undeclared=tuple(f"table {number}" for number in range(many)),
    )
    html = state._repr_html_()
    assert len(html.encode()) <= LIMIT
    assert html.count("more rows</p>") == 5
    assert len(repr(state)) < 400
