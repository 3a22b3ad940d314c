"""Exactly once under everything: real faults amid work, on each log; then every acknowledged event is counted.

`make test` strikes at least once with each kind, `make soak` at least 300 times on each log. The seed of
a run is printed; HEADRACE_SEED=n plays its schedule again.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from services.catalog import catalog as running_catalog
from services.kafka import Broker
from services.kafka import broker as running_broker
from services.server import Missing
from tests.faults.kinds import KEEPING, KINDS, POINTS, kinds_of
from tests.faults.run import start_run
from tests.faults.setup import Setup
from tests.faults.suite import run_schedule
from tests.lake.catalog_proxy import CatalogProxy, proxy_catalog

import headrace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its faults are struck as Linux has them")

LEAST = 300  # faults on each log in the whole form, poison not counted
SHORT = dict.fromkeys(KINDS, 1) | {"worker killed at random": 4, "producer killed": 2}
WHOLE = (
    dict.fromkeys(KINDS, 8)
    | {kind: 4 for kind in KINDS if kind.startswith("poison") or "broker" in kind or "maintenance" in kind}
    | {"worker killed at random": 100, "producer killed": 30}
)
# On a REST catalog only what its being one makes a difference to: each of these so often.
SERVED = (
    "commit cut off before",
    "commit cut off after",
    "worker killed at lake.before_commit",
    "worker killed at lake.after_commit",
    "worker hangs at lake.before_commit, wakes",
    "another writer's commits",
    "maintenance beside",
)


@pytest.fixture
def broker(log: str, tmp_path: Path) -> Iterator[Broker | None]:
    """A broker for this test alone, as it is killed; None on SQLite."""
    if log == "sqlite":
        yield None
        return
    folder = tmp_path / "kafka"
    folder.mkdir()
    try:
        with running_broker(folder) as one:
            yield one
    except Missing as missing:
        pytest.skip(f"no Kafka broker: {missing}")


@pytest.fixture
def door(catalog: str, tmp_path: Path) -> Iterator[CatalogProxy | None]:
    """The door of a REST catalog; None on SQLite."""
    if catalog == "sqlite":
        yield None
        return
    folder = tmp_path / "catalog"
    folder.mkdir()
    with ExitStack() as stack:
        try:
            served = stack.enter_context(running_catalog(folder))
        except Missing as missing:
            pytest.skip(f"no REST catalog: {missing}")
        yield stack.enter_context(proxy_catalog(served.port))


@pytest.mark.parametrize("form", ["short", pytest.param("whole", marks=pytest.mark.soak)])
@pytest.mark.parametrize("catalog", ["sqlite", "rest"])
@pytest.mark.parametrize("log", ["sqlite", "kafka"])
def test_every_acknowledged_event_counts_once(
    log: str,
    catalog: str,
    form: str,
    broker: Broker | None,
    door: CatalogProxy | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = int(os.environ.get("HEADRACE_SEED") or random.SystemRandom().randrange(1_000_000))
    sys.stdout.write(f"HEADRACE_SEED={seed}\n")  # shown where it fails
    log_url = "sqlite" if broker is None else broker.url
    catalog_url = "sqlite" if door is None else door.url
    wanted = SHORT if form == "short" else WHOLE
    if door is not None:
        wanted = dict.fromkeys(SERVED, 1 if form == "short" else 8)
    setup = Setup(tmp_path / "disk", tmp_path / "papers", log_url, catalog_url, "clicks", 4)
    with start_run(setup, seed, broker, door) as run:
        wanted = {kind: count for kind, count in wanted.items() if kind in kinds_of(run)}
        figure = run_schedule(run, f"{log} log, {catalog} catalog", seed, wanted)
    with capsys.disabled():
        sys.stdout.write(f"\n{figure}\n")
    assert figure.wrong == {}
    for kind in wanted:
        struck = figure.poison if kind.startswith("poison: ") else figure.struck
        assert struck[kind.removeprefix("poison: ")], f"{kind} never struck"
    if form == "whole" and door is None:
        assert figure.faults >= LEAST


def test_every_named_point_of_the_write_path_is_struck() -> None:
    source = Path(headrace.__file__).parent
    named = {
        point
        for room in ("events", "lake", "log")
        for path in (source / room).rglob("*.py")
        for point in re.findall(r'reach\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    struck = {*POINTS, *KEEPING}
    # Deleting waits for a grace that outlives this suite: tests/lake/test_maintenance.py kills it there;
    # tests/lake/test_home.py kills what follows a move, and tests/events what forwards and what alerts.
    elsewhere = {"maintenance.delete", "forward.before_commit", "forward.after_commit", "alerts.after_append"}
    elsewhere |= {"lake.home_rewritten", "lake.home_snapshot"}
    assert named - elsewhere == {point for point in struck if not point.startswith("sink.")}
