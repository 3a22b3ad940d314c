"""Rates of refused events, and the alerts they raise: once, changed, resolved, also across a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import attrs
import msgspec
import pytest
from tests.events.clicks import click

from headrace import Alerts
from headrace.alerts.record import TOPIC, Alert, AlertFollower, Severity, open_alerts, read_table
from headrace.alerts.watch import AlertWatch
from headrace.config.settings import Settings
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest import ingest, refusals
from headrace.events.ingest.ingest import Ingest
from headrace.events.ingest.rates import RefusalRate, RefusalRates, severity_of
from headrace.events.ingest.refusals import RefusalSource
from headrace.events.quarantine import QuarantineSelection, replay
from headrace.kernel.errors import ProjectError
from headrace.kernel.faults import VARIABLE
from headrace.kernel.ids import new_id
from headrace.kernel.time import now_micros
from headrace.lake import Lake
from headrace.log import Log

LIMITS = Alerts(warning=0.01, critical=0.1, growth=5, min_events=100)
MINUTE = 60_000_000  # microseconds


@pytest.mark.parametrize(
    ("refused", "events", "baseline", "current", "expected"),
    [
        (9, 1_000, 0.009, None, None),
        (10, 1_000, 0.009, None, "warning"),  # by share
        (100, 1_000, 0.09, None, "critical"),
        (45, 1_000, 0.009, None, "critical"),  # a warning's share, grown five-fold
        (10, 10_000, 0.0002, None, "warning"),  # below a warning's share, but grown five-fold
        (9, 10_000, 0.0001, None, None),  # ... of too few events for growth to count
        (10, 1_000, None, None, "warning"),  # no baseline to compare with
        (99, 99, 0.001, None, None),  # too few events
        (8, 1_000, 0.008, "warning", "warning"),  # kept a little below what raises it
        (7, 1_000, 0.007, "warning", None),
        (80, 1_000, 0.08, "critical", "critical"),
        (70, 1_000, 0.07, "critical", "warning"),
        (80, 1_000, 0.08, "warning", "warning"),  # what would keep a critical one does not make it critical
        (7, 1_000, 0.007, "critical", None),
        (1, 50, 0.5, "critical", "critical"),  # too few to say that it is over
        (0, 50, 0.5, "critical", None),
    ],
)
def test_severity_is_by_share_and_by_growth(
    refused: int, events: int, baseline: float | None, current: Severity | None, expected: Severity | None
) -> None:
    assert severity_of(RefusalRate(refused, events, baseline), LIMITS, current) == expected


def test_alerts_refuse_limits_without_meaning() -> None:
    for limits in (
        {"warning": 0.2},
        {"critical": 2},
        {"growth": 1},
        {"min_events": 0},
        {"window": "1s"},
        {"baseline": "1m"},
    ):
        with pytest.raises(ProjectError):
            Alerts(**limits)  # type: ignore[arg-type]


@pytest.fixture
def alerting_contract(contract: Contract) -> Contract:
    return attrs.evolve(contract, dedup_within=None, alerts=Alerts(window="10m", baseline="20m", min_events=20))


def ingest_all(contract: Contract, log: Log, lake: Lake) -> None:
    Ingest(contract, log, lake).run(until_end=True, stop=threading.Event())


def alert_contract() -> Contract:
    contract = contract_of(Alert)
    assert contract is not None
    return contract


def watch_once(
    contract: Contract, log: Log, lake: Lake, *, committed: bool = True, declared: Sequence[str] = ("clicks",)
) -> list[Alert]:
    """The changes that a process appends which begins to watch and ends."""
    follower = AlertFollower(log)
    follower.poll()
    source = RefusalSource([contract], log, lake, declared)
    with AlertWatch([source], log, lake):
        if committed:
            source.note_commit(contract.topic)
    return [record.value for record in follower.poll()]


def raise_alert(contract: Contract, events_log: Log, lake: Lake) -> Alert:
    """The alert that refused events of the topic `clicks` raise."""
    events_log.create("clicks")
    events_log.append("clicks", [click(n, price=-1) for n in range(30)])
    ingest_all(contract, events_log, lake)
    (raised,) = watch_once(contract, events_log, lake)
    return raised


def test_rates_from_commits_equal_those_of_the_rows(
    alerting_contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH", 7)
    monkeypatch.setattr(ingest, "TRICKLE", 0)
    events_log.create("clicks")
    events_log.append("clicks", [click(1)])
    ingest_all(alerting_contract, events_log, lake)
    from_commits = RefusalRates(alerting_contract, lake.table("clicks"))
    from_commits.update()
    for turn in range(3):
        events_log.append("clicks", [click(n, price=-(n % 2)) for n in range(20)] + [b"no %d" % turn])
        ingest_all(alerting_contract, events_log, lake)
        from_commits.update()
    assert replay(alerting_contract, lake, events_log, QuarantineSelection(code="not_json")).events == 3
    ingest_all(alerting_contract, events_log, lake)  # a replay does not count as an arrival
    from_commits.update()
    from_rows = RefusalRates(alerting_contract, lake.table("clicks"))
    from_rows.update()
    now = now_micros()
    expected = {
        ("out_of_range", "price"): RefusalRate(60, 64, None),
        ("not_json", None): RefusalRate(3, 64, None),
    }
    for rates in (from_commits, from_rows):
        assert {key: rates.rate(key, now) for key in rates.keys()} == expected  # noqa: SIM118 - a method
        assert rates.rate(("not_json", None), now + 20 * MINUTE) == RefusalRate(0, 0, 4 / 65)


def test_alert_is_raised_once_and_resolved_when_it_is_over(
    alerting_contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(n) for n in range(95)] + [click(n, price=-1) for n in range(5)])
    ingest_all(alerting_contract, events_log, lake)
    (raised,) = watch_once(alerting_contract, events_log, lake)
    assert raised.key == ("refusals", "clicks", "out_of_range (price)")
    assert (raised.state, raised.severity) == ("raised", "warning")
    assert (raised.facts["code"], raised.facts["field"]) == ("out_of_range", "price")
    assert (raised.facts["refused"], raised.facts["events"], raised.facts["share"]) == (5, 100, 0.05)
    assert raised.why == "5.00% of 100 events in 10m refused as out_of_range (price)"
    assert watch_once(alerting_contract, events_log, lake) == []

    events_log.append("clicks", [click(n, price=-1) for n in range(30)])
    ingest_all(alerting_contract, events_log, lake)
    (changed,) = watch_once(alerting_contract, events_log, lake)
    assert (changed.state, changed.severity) == ("changed", "critical")
    assert (changed.alert, changed.number) == (raised.id, 2)
    assert watch_once(alerting_contract, events_log, lake, committed=False) == []

    monkeypatch.setattr(refusals, "now_micros", lambda: now_micros() + 30 * MINUTE)
    events_log.append("clicks", [b"not read yet"])
    assert watch_once(alerting_contract, events_log, lake, committed=False) == [], (
        "an arrival is not judged yet"
    )
    ingest_all(alerting_contract, events_log, lake)
    (resolved,) = watch_once(alerting_contract, events_log, lake, committed=False)
    assert (resolved.state, resolved.severity, resolved.alert) == ("resolved", "critical", raised.id)
    assert watch_once(alerting_contract, events_log, lake, committed=False) == []

    ingest_all(alert_contract(), events_log, lake)
    rows = lake.table("headrace_alerts").scan().collect()
    assert rows["state"].to_list() == ["raised", "changed", "resolved"]
    assert read_table(lake) == {resolved.key: resolved}


def test_alert_is_over_once_its_contract_declares_none(
    alerting_contract: Contract, events_log: Log, lake: Lake
) -> None:
    raised = raise_alert(alerting_contract, events_log, lake)
    without = attrs.evolve(alerting_contract, alerts=None)
    other = attrs.evolve(without, topic="others")
    assert watch_once(other, events_log, lake) == []  # of a topic that this process does not ingest
    (resolved,) = watch_once(without, events_log, lake, committed=False)
    assert (resolved.state, resolved.alert) == ("resolved", raised.id)
    assert resolved.why == "the topic's contract declares no alerts any more"
    assert open_alerts(events_log) == []


def test_alert_is_over_once_its_topic_has_no_contract(
    alerting_contract: Contract, events_log: Log, lake: Lake
) -> None:
    raised = raise_alert(alerting_contract, events_log, lake)
    other = attrs.evolve(alerting_contract, topic="others")
    assert watch_once(other, events_log, lake, committed=False, declared=["clicks", "others"]) == []
    (resolved,) = watch_once(other, events_log, lake, committed=False, declared=["others"])
    assert (resolved.state, resolved.alert) == ("resolved", raised.id)
    assert resolved.why == "the topic has no contract any more"
    assert open_alerts(events_log) == []


def test_few_events_raise_nothing(alerting_contract: Contract, events_log: Log, lake: Lake) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 19)
    ingest_all(alerting_contract, events_log, lake)
    assert watch_once(alerting_contract, events_log, lake) == []
    assert watch_once(attrs.evolve(alerting_contract, alerts=None), events_log, lake) == []


def test_first_on_the_log_counts_where_two_decide_at_once(
    alerting_contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 20)
    ingest_all(alerting_contract, events_log, lake)
    (raised,) = watch_once(alerting_contract, events_log, lake)
    second = msgspec.structs.replace(raised, id=new_id(), severity="warning")
    events_log.append(TOPIC, [msgspec.json.encode(second), b"no alert"])
    follower = AlertFollower(events_log)
    assert [record.value for record in follower.poll()] == [raised]
    assert follower.open == [raised]
    ingest_all(alert_contract(), events_log, lake)
    rows = lake.table("headrace_alerts").scan().collect()
    assert rows["_code"].to_list() == [None, "duplicate", "not_json"]
    # The table knows what the log has forgotten: the next change takes the next number.
    events_log.trim(TOPIC, events_log.end(TOPIC))
    assert AlertFollower(events_log, read_table(lake)).last == {raised.key: raised}


def test_process_killed_after_an_alert_does_not_raise_it_again(
    contract: Contract, events_log: Log, lake: Lake, settings: Settings
) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [b"no"] * 300)
    program = "from tests.events.forking import watch_once; import sys; watch_once(sys.argv[1])"
    process = subprocess.run(
        [sys.executable, "-c", program, str(settings.root)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, VARIABLE: "alerts.after_append"},
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL
    ingest_all(contract, events_log, lake)
    assert watch_once(contract, events_log, lake) == []
    assert [record.value.state for record in AlertFollower(events_log).poll()] == ["raised"]
