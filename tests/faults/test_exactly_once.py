"""Exactly once under everything: real faults amid work, on each log; then every acknowledged event is counted.

`make test` strikes a few times with each kind, `make soak` at least 300 times on each log.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from services.kafka import Broker
from services.kafka import broker as running
from services.server import Missing
from tests.faults.kinds import KINDS, kinds_of
from tests.faults.scene import staged
from tests.faults.stage import Stage
from tests.faults.suite import played

LEAST = 300
SHORT = dict.fromkeys(KINDS, 1) | {"worker killed at random": 6, "producer killed": 3, "replay": 2}
WHOLE = (
    {kind: 9 if "at" in kind.split() else 8 for kind in KINDS}
    | {"worker killed at random": 100, "producer killed": 25, "broker restarted": 4, "broker killed": 4}
    | {kind: 4 for kind in KINDS if kind.startswith("poison")}
)


@pytest.fixture
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker | None]:
    """A broker for this test alone, as it is killed; None on SQLite."""
    if request.getfixturevalue("log") == "sqlite":
        yield None
        return
    folder = tmp_path / "kafka"
    folder.mkdir()
    try:
        with running(folder) as one:
            yield one
    except Missing as missing:
        pytest.skip(f"no Kafka broker: {missing}")


@pytest.mark.parametrize("form", ["short", pytest.param("whole", marks=pytest.mark.soak)])
@pytest.mark.parametrize("log", ["sqlite", "kafka"])
def test_every_acknowledged_event_counts_once(
    log: str, form: str, tmp_path: Path, broker: Broker | None, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("HEADRACE_SEED") or random.SystemRandom().randrange(1_000_000))
    url = "sqlite" if broker is None else broker.url
    stage = Stage(tmp_path / "disk", tmp_path / "papers", url, "sqlite", "clicks", 4)
    wanted = SHORT if form == "short" else WHOLE
    sys.stdout.write(f"HEADRACE_SEED={seed}\n")  # shown where it fails
    with staged(stage, seed, broker) as scene:
        possible = kinds_of(scene)
        figure = played(scene, f"{log} log, SQLite catalog", seed, wanted)
    with capsys.disabled():
        sys.stdout.write(f"\n{figure}\n")
    assert figure.wrong == {}
    for kind in possible:
        if kind.startswith("poison: "):
            assert figure.poison[kind.removeprefix("poison: ")], f"{kind} never struck"
        else:
            assert figure.struck[kind], f"{kind} never struck"
    if form == "whole":
        assert figure.faults >= LEAST
