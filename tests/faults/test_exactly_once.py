"""Exactly once under faults: injects real faults amid work, on each log, then counts every acknowledged event.

`make test` injects each kind of fault at least once, those in which the log takes part on Kafka too, and those
of the catalog on a REST catalog; `make soak` at least 300 faults on each log. The seed of a run is printed;
HEADRACE_SEED=n repeats its schedule.
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
from tests.faults.kinds import KINDS, MAINTENANCE_POINTS, WORKER_POINTS, possible_kinds
from tests.faults.run import start_run
from tests.faults.setup import Setup
from tests.faults.suite import run_schedule
from tests.lake.catalog_proxy import CatalogProxy, proxy_catalog

import headrace

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults need Linux")

LEAST = 300  # faults on each log in the whole form, without poison
SHORT = dict.fromkeys(KINDS, 1) | {"worker killed at random": 4, "producer killed": 2}
# Between the log and these the lake lies: the short form injects them on the embedded log alone.
BEYOND_THE_LOG = {
    kind for kind in KINDS if "maintenance" in kind or "data_file" in kind or "file locked" in kind
}
BEYOND_THE_LOG |= {"disk full", "another writer's commits", "code edited", "fill killed"}
WHOLE = (
    dict.fromkeys(KINDS, 8)
    | {kind: 4 for kind in KINDS if kind.startswith("poison") or "broker" in kind or "maintenance" in kind}
    | {"worker killed at random": 100, "producer killed": 30}
)
# On a REST catalog: only the faults in which the catalog takes part.
CATALOG_FAULTS = (
    "commit cut off before",
    "commit cut off after",
    "worker killed at lake.before_commit",
    "worker killed at lake.after_commit",
    "worker hangs at lake.before_commit, wakes",
    "another writer's commits",
    "concurrent maintenance",
)


@pytest.fixture
def broker(log: str, tmp_path: Path) -> Iterator[Broker | None]:
    """A broker for this test alone, since the test kills it; None on SQLite."""
    if log == "sqlite":
        yield None
        return
    folder = tmp_path / "kafka"
    folder.mkdir()
    try:
        with running_broker(folder) as running:
            yield running
    except Missing as missing:
        pytest.skip(f"no Kafka broker: {missing}")


@pytest.fixture
def catalog_proxy(catalog: str, tmp_path: Path) -> Iterator[CatalogProxy | None]:
    """A proxy of a REST catalog; None on SQLite."""
    if catalog == "sqlite":
        yield None
        return
    folder = tmp_path / "catalog"
    folder.mkdir()
    with ExitStack() as stack:
        try:
            running = stack.enter_context(running_catalog(folder))
        except Missing as missing:
            pytest.skip(f"no REST catalog: {missing}")
        yield stack.enter_context(proxy_catalog(running.port))


RUNS = [
    *(("sqlite", "sqlite", "short"), ("sqlite", "rest", "short"), ("kafka", "sqlite", "short")),
    *(
        pytest.param(log, catalog, "whole", marks=pytest.mark.soak)
        for log in ("sqlite", "kafka")
        for catalog in ("sqlite", "rest")
    ),
]


@pytest.mark.parametrize(("log", "catalog", "form"), RUNS)
def test_every_acknowledged_event_counts_once(
    log: str,
    catalog: str,
    form: str,
    broker: Broker | None,
    catalog_proxy: CatalogProxy | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = int(os.environ.get("HEADRACE_SEED") or random.SystemRandom().randrange(1_000_000))
    sys.stdout.write(f"HEADRACE_SEED={seed}\n")  # pytest shows it when the test fails
    log_url = "sqlite" if broker is None else broker.url
    catalog_url = "sqlite" if catalog_proxy is None else catalog_proxy.url
    wanted = SHORT if form == "short" else WHOLE
    if catalog_proxy is not None:
        wanted = dict.fromkeys(CATALOG_FAULTS, 1 if form == "short" else 8)
    elif form == "short" and log == "kafka":
        wanted = {kind: count for kind, count in SHORT.items() if kind not in BEYOND_THE_LOG}
    setup = Setup(tmp_path / "disk", tmp_path / "notes", log_url, catalog_url, "clicks", 4)
    with start_run(setup, seed, broker, catalog_proxy) as run:
        wanted = {kind: count for kind, count in wanted.items() if kind in possible_kinds(run)}
        outcome = run_schedule(run, f"{log} log, {catalog} catalog", seed, wanted)
    with capsys.disabled():
        sys.stdout.write(f"\n{outcome}\n")
    assert outcome.violations == {}
    for kind in wanted:
        counts = outcome.poison if kind.startswith("poison: ") else outcome.injected
        assert counts[kind.removeprefix("poison: ")], f"{kind} was never injected"
    if form == "whole" and catalog_proxy is None:
        assert outcome.faults >= LEAST


def test_every_fault_point_of_the_write_path_is_used() -> None:
    source = Path(headrace.__file__).parent
    named = {
        point
        for room in ("events", "features/online", "lake", "log")
        for path in (source / room).rglob("*.py")
        for point in re.findall(r'reach\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    used = {*WORKER_POINTS, *MAINTENANCE_POINTS, "online.fill.written"}
    # Deleting waits for a grace period longer than this suite, so tests/lake/test_maintenance.py covers it;
    # tests/lake/test_home.py covers a moved project, tests/events forwarding and alerts,
    # tests/log/test_sqlite.py a new topic, and tests/contract/test_online.py the load of an as-of view.
    elsewhere = {"maintenance.delete", "forward.before_commit", "forward.after_commit", "alerts.after_append"}
    elsewhere |= {"lake.home_rewritten", "lake.home_snapshot", "log.before_topic", "online.load.written"}
    assert named - elsewhere == {point for point in used if not point.startswith("sink.")}
