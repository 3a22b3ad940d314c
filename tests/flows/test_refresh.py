"""The refresh interval: when a model is trained on newer inputs."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from headrace.flows.build import refresh
from headrace.flows.build.refresh import due_at, refresh_reason


def test_a_daily_build_takes_newer_inputs_although_its_start_varies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jitter = random.Random(5)
    start, day = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)
    pointer = None
    for run in range(30):
        now = start + run * day + timedelta(seconds=jitter.uniform(-300, 300))
        monkeypatch.setattr(refresh, "now", lambda now=now: now)
        assert refresh_reason(pointer, {"events": run}, "code", day, is_trained=True), run
        pointer = {"snapshots": {"events": run}, "taken": now.isoformat(), "code": "code"}


@pytest.mark.parametrize(("refreshed", "after"), [("1d", timedelta(hours=23)), ("1h", timedelta(minutes=54))])
def test_a_model_keeps_its_inputs_until_they_are_old_enough(
    monkeypatch: pytest.MonkeyPatch, refreshed: str, after: timedelta
) -> None:
    taken = datetime(2024, 1, 1, tzinfo=UTC)
    every = {"1d": timedelta(days=1), "1h": timedelta(hours=1)}[refreshed]
    pointer = {"snapshots": {"events": 1}, "taken": taken.isoformat(), "code": "code"}
    assert due_at(pointer, {"events": 2}, every) == taken + after
    for moment, is_due in ((taken + after - timedelta(seconds=1), False), (taken + after, True)):
        monkeypatch.setattr(refresh, "now", lambda moment=moment: moment)
        assert bool(refresh_reason(pointer, {"events": 2}, "code", every, is_trained=True)) is is_due
