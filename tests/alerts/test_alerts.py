"""Rates of refused events, and the alerts they raise: once, changed, resolved, also across a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.events.clicks import click

from headrace import Alerts
from headrace.alerts.record import TOPIC, Alert, Changes, from_table
from headrace.config.settings import Settings
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest import ingest, watch
from headrace.events.ingest.ingest import Ingest
from headrace.events.ingest.rates import Rate, Rates, Severity, severity
from headrace.events.ingest.watch import Watch
from headrace.events.quarantine import Choice, replay
from headrace.kernel.errors import ProjectError
from headrace.kernel.faults import VARIABLE
from headrace.kernel.ids import new_id
from headrace.kernel.time import now_micros
from headrace.lake import Lake
from headrace.log import Log

LIMITS = Alerts(warning=0.01, critical=0.1, trend=5, least=100)
MINUTE = 60_000_000  # microseconds


@pytest.mark.parametrize(
    ("refused", "events", "before", "old", "expected"),
    [
        (9, 1_000, 0.009, None, None),
        (10, 1_000, 0.009, None, "warning"),  # by share
        (100, 1_000, 0.09, None, "critical"),
        (45, 1_000, 0.009, None, "critical"),  # a warning's share, grown five-fold
        (10, 10_000, 0.0002, None, "warning"),  # below a warning's share, but grown five-fold
        (9, 10_000, 0.0001, None, None),  # ... of too few to be a trend
        (10, 1_000, None, None, "warning"),  # nothing to compare it with
        (99, 99, 0.001, None, None),  # too few events
        (8, 1_000, 0.008, "warning", "warning"),  # held a little below what raises it
        (7, 1_000, 0.007, "warning", None),
        (80, 1_000, 0.08, "critical", "critical"),
        (70, 1_000, 0.07, "critical", "warning"),
        (80, 1_000, 0.08, "warning", "warning"),  # not made worse by what would hold a worse one
        (7, 1_000, 0.007, "critical", None),
        (1, 50, 0.5, "critical", "critical"),  # too few to say that it is over
        (0, 50, 0.5, "critical", None),
    ],
)
def test_severity_is_by_share_and_by_trend(
    refused: int, events: int, before: float | None, old: Severity | None, expected: Severity | None
) -> None:
    assert severity(Rate(refused, events, before), LIMITS, old) == expected


def test_thresholds_that_mean_nothing_are_refused() -> None:
    for wrong in (
        {"warning": 0.2},
        {"critical": 2},
        {"trend": 1},
        {"least": 0},
        {"window": "1s"},
        {"before": "1m"},
    ):
        with pytest.raises(ProjectError):
            Alerts(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def watched(contract: Contract) -> Contract:
    return replace(contract, dedup_within=None, alerts=Alerts(window="10m", before="20m", least=20))


def ingested(contract: Contract, log: Log, lake: Lake) -> None:
    Ingest(contract, log, lake).run(until_end=True, stop=threading.Event())


def looked(contract: Contract, log: Log, lake: Lake, *, committed: bool = True) -> list[Alert]:
    """What a process that watches says, which begins and ends."""
    changes = Changes(log)
    changes.poll()
    with Watch([contract], log, lake) as one:
        if committed:
            one.committed(contract.topic)
    return [alert for _, _, alert in changes.poll()]


def test_rates_from_commits_are_those_of_the_rows(
    watched: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", 7)
    monkeypatch.setattr(ingest, "TRICKLE", 0)
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    ingested(watched, events_log, lake)
    following = Rates(watched, lake.table("clicks"))
    following.look()
    for turn in range(3):
        events_log.append("clicks", [click(n, price=-(n % 2)) for n in range(20)] + [b"no %d" % turn])
        ingested(watched, events_log, lake)
        following.look()
    assert replay(watched, lake, events_log, Choice(code="not_json")).events == 3
    ingested(watched, events_log, lake)  # a replay is no arrival
    following.look()
    counted = Rates(watched, lake.table("clicks"))
    counted.look()
    now = now_micros()
    expected = {("out_of_range", "price"): Rate(60, 64, None), ("not_json", None): Rate(3, 64, None)}
    for rates in (following, counted):
        assert {one: rates.rate(one, now) for one in rates.reasons()} == expected
        assert rates.rate(("not_json", None), now + 20 * MINUTE) == Rate(0, 0, 4 / 65)


def test_an_alert_is_raised_once_and_resolved_when_it_is_over(
    watched: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(n) for n in range(95)] + [click(n, price=-1) for n in range(5)])
    ingested(watched, events_log, lake)
    (raised,) = looked(watched, events_log, lake)
    assert (raised.about, raised.state, raised.severity) == (
        ("clicks", "out_of_range", "price"),
        "raised",
        "warning",
    )
    assert (raised.refused, raised.events, raised.share) == (5, 100, 0.05)
    assert raised.why == "5.00% of 100 events in 10m refused as out_of_range (price)"
    assert looked(watched, events_log, lake) == []

    events_log.append("clicks", [click(n, price=-1) for n in range(30)])
    ingested(watched, events_log, lake)
    (changed,) = looked(watched, events_log, lake)
    assert (changed.state, changed.severity, changed.alert, changed.number) == (
        "changed",
        "critical",
        raised.id,
        2,
    )
    assert looked(watched, events_log, lake, committed=False) == []

    monkeypatch.setattr(watch, "now_micros", lambda: now_micros() + 30 * MINUTE)
    events_log.append("clicks", [b"not read yet"])
    assert looked(watched, events_log, lake, committed=False) == [], "what has arrived is not judged yet"
    ingested(watched, events_log, lake)
    (over,) = looked(watched, events_log, lake, committed=False)
    assert (over.state, over.severity, over.alert) == ("resolved", "critical", raised.id)
    assert looked(watched, events_log, lake, committed=False) == []

    alerts = contract_of(Alert)
    assert alerts is not None
    ingested(alerts, events_log, lake)
    rows = lake.table("headrace_alerts").scan().collect()
    assert rows["state"].to_list() == ["raised", "changed", "resolved"]
    assert from_table(lake) == {over.about: over}


def test_few_events_raise_nothing(watched: Contract, events_log: Log, lake: Lake) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 19)
    ingested(watched, events_log, lake)
    assert looked(watched, events_log, lake) == []
    assert looked(replace(watched, alerts=None), events_log, lake) == []


def test_of_two_that_decide_at_once_the_first_on_the_log_counts(
    watched: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 20)
    ingested(watched, events_log, lake)
    (raised,) = looked(watched, events_log, lake)
    second = msgspec.structs.replace(raised, id=new_id(), severity="warning")
    events_log.append(TOPIC, [msgspec.json.encode(second), b"no alert"])
    changes = Changes(events_log)
    assert [one for _, _, one in changes.poll()] == [raised]
    assert changes.open == [raised]
    alerts = contract_of(Alert)
    assert alerts is not None
    ingested(alerts, events_log, lake)
    rows = lake.table("headrace_alerts").scan().collect()
    assert rows["_code"].to_list() == [None, "duplicate", "not_json"]
    # What the log has forgotten its table knows: the next change takes the next number.
    events_log.trim(TOPIC, events_log.end(TOPIC))
    assert Changes(events_log, from_table(lake)).last == {raised.about: raised}


def test_killed_after_an_alert_it_is_not_raised_again(
    contract: Contract, events_log: Log, lake: Lake, settings: Settings
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 300)
    program = "from tests.events.killed import watch_once; import sys; watch_once(sys.argv[1])"
    killed = subprocess.run(
        [sys.executable, "-c", program, str(settings.root)],
        cwd=Path(__file__).parents[2], env={**os.environ, VARIABLE: "alerts.after_append"}, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    ingested(contract, events_log, lake)
    assert looked(contract, events_log, lake) == []
    assert [one.state for _, _, one in Changes(events_log).poll()] == ["raised"]
