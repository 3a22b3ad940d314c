"""Where the replicas run, one suite for both ways: they answer, follow releases, come back, leave nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.flows.processes import descendants, listening
from tests.serving.small_project import (
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace import log
from headrace.config.settings import Settings
from headrace.http.serve import bind
from headrace.serving import deployment as deployments
from headrace.serving.deployment import Deployment
from headrace.serving.prediction import TOPIC
from headrace.serving.release import Arm

ASKED = {"user_id": 1, "product_id": 7, "price": 3.5}
RAYS = "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc"),
    pytest.mark.filterwarnings(RAYS),
]


@pytest.fixture(scope="module")
def boosters() -> dict[int, bytes]:
    return {1: fit_booster(1), 2: fit_booster(-1)}


@pytest.fixture(scope="module", params=["processes", "ray_serve"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def settings(way: str, boosters: dict[int, bytes], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A project with versions 1 and 2, version 1 released, that runs two replicas."""
    made = make_project(tmp_path_factory.mktemp(way) / "project")
    for version in (1, 2):
        put_bundle(made, boosters, version, plan_of())
    put_features(made, plan_of(), {7: (9.5, 190)})
    put_release(made, Arm(1))
    return made.with_values(serving=way, replicas=2)


class Watched:
    """A deployment that is looked after, as `up` does, by a thread."""

    def __init__(self, settings: Settings) -> None:
        with bind("127.0.0.1", 0) as probe:
            port = probe.getsockname()[1]
        self.said: list[str] = []
        self._settings, self._port = settings, port
        self._ready, self._over = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self.roll = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            self.deployment: Deployment = deployments.start(self._settings, port=self._port)
        except BaseException as error:
            self._failed = error
            self._ready.set()
            return
        self._ready.set()
        while not self._over.wait(0.1):
            self.deployment.look(self.said.append)
            if self.roll.is_set():
                self.roll.clear()
                self.deployment.roll(self.said.append)
        self.deployment.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def begin_roll(self) -> int:
        """The process id of the first new replica of a roll, amid its start."""
        before = set(descendants(os.getpid()))
        self.roll.set()
        until(lambda: set(descendants(os.getpid())) - before)
        return (set(descendants(os.getpid())) - before).pop()

    def ask(self) -> dict[str, Any]:
        answer = httpx.post(f"{self.deployment.url}/predict/purchase", json=ASKED, timeout=30)
        answer.raise_for_status()
        return dict(answer.json())


@pytest.fixture(scope="module")
def watched(settings: Settings) -> Iterator[Watched]:
    running = Watched(settings)
    yield running
    running.stop()


def answered(watched: Watched) -> bool:
    try:
        watched.ask()
    except httpx.HTTPError:
        return False
    return True


def shipped(settings: Settings) -> set[str]:
    """The ids of the predictions on the log."""
    opened = log.open(settings.log.url)
    try:
        batch = opened.read(TOPIC, dict.fromkeys(range(opened.partitions(TOPIC)), 0), 100_000)
    finally:
        opened.close()
    return {json.loads(value)["id"] for value in batch.values}


def test_it_answers_from_its_start_and_ships_what_it_answered(watched: Watched, settings: Settings) -> None:
    answer = watched.ask()
    assert (answer["version"], answer["missing"]) == (1, [])
    until(lambda: answer["id"] in shipped(settings))


def test_a_release_is_taken_up(watched: Watched, settings: Settings) -> None:
    put_release(settings, Arm(2))
    until(lambda: {watched.ask()["version"] for _ in range(8)} == {2})


def test_no_request_is_lost_while_the_replicas_are_rolled(watched: Watched, way: str) -> None:
    """Each request on a connection of its own: one that was kept open may be closed by who ends."""
    before = watched.deployment.processes
    watched.roll.set()
    asked = 0
    if way != "processes":  # HAProxy closes connections when it learns of another replica
        until(lambda: "the replicas are deployed anew" in watched.said)
        until(lambda: answered(watched))
        return
    while "replica-2 was replaced" not in watched.said:
        watched.ask()
        asked += 1
    assert asked > 20
    assert set(watched.deployment.processes.values()).isdisjoint(before.values())


def test_a_roll_whose_new_process_does_not_start_leaves_the_old_ones_at_work(
    watched: Watched, way: str
) -> None:
    if way != "processes":
        pytest.skip("Ray looks after its replicas itself")
    until(lambda: answered(watched))
    before = watched.deployment.processes
    coming = watched.begin_roll()
    os.kill(coming, signal.SIGKILL)
    until(lambda: any(line.startswith("replica-1 was not replaced") for line in watched.said))
    assert watched.deployment.processes == before
    assert answered(watched)


def test_during_a_roll_a_killed_replica_is_replaced_at_once(watched: Watched, way: str) -> None:
    """Also while the new process of the roll does not come up."""
    if way != "processes":
        pytest.skip("Ray looks after its replicas itself")
    until(lambda: answered(watched))
    before = watched.deployment.processes
    coming = watched.begin_roll()
    os.kill(coming, signal.SIGSTOP)
    os.kill(before["replica-2"], signal.SIGKILL)
    until(lambda: watched.deployment.processes["replica-2"] != before["replica-2"])
    rolled = watched.said.count("replica-2 was replaced")
    os.kill(coming, signal.SIGCONT)
    until(lambda: watched.said.count("replica-2 was replaced") > rolled)
    assert watched.deployment.processes["replica-1"] == coming


def test_a_port_that_is_taken_is_an_error(settings: Settings, way: str) -> None:
    if way != "processes":
        pytest.skip("Ray Serve starts, and cannot be asked before")
    from headrace.kernel.errors import Unavailable

    with bind("127.0.0.1", 0) as taken, pytest.raises(Unavailable, match="in use"):
        deployments.start(settings, port=taken.getsockname()[1])


def test_a_killed_replica_is_replaced_and_reported(watched: Watched, way: str) -> None:
    if way != "processes":
        pytest.skip("Ray looks after its replicas itself")
    for replica, pid in watched.deployment.processes.items():
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid, replica=replica: watched.deployment.processes[replica] != pid)
        until(lambda: answered(watched))
        assert any(line.startswith(f"{replica} ended (signal 9)") for line in watched.said)


def test_while_no_replica_is_at_work_clients_are_told_so(watched: Watched, way: str) -> None:
    if way != "processes":
        pytest.skip("Ray looks after its replicas itself")
    for pid in watched.deployment.processes.values():
        os.kill(pid, signal.SIGKILL)
    statuses = []

    def back() -> bool:
        # A connection that a killed replica had taken is reset; a new one is answered, by whom there is.
        try:
            answer = httpx.post(f"{watched.deployment.url}/predict/purchase", json=ASKED, timeout=30)
        except httpx.TransportError:
            return False
        statuses.append((answer.status_code, answer.headers["content-type"]))
        return answer.status_code == 200

    until(back)
    assert {status for status, _ in statuses} <= {200, 503}
    assert {kind for _, kind in statuses} == {"application/json"}


def test_a_replica_that_hangs_is_killed_and_replaced(
    watched: Watched, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "processes":
        pytest.skip("Ray looks after its replicas itself")
    monkeypatch.setattr("headrace.kernel.children._SILENT", 3.0)
    name, pid = next(iter(watched.deployment.processes.items()))
    until(lambda: answered(watched))
    until(lambda: watched.deployment._replicas[0]._beat is not None)  # it has given a sign of life
    os.kill(pid, signal.SIGSTOP)
    until(lambda: watched.deployment.processes[name] != pid)
    assert any(line.startswith(f"{name} hangs") for line in watched.said)
    until(lambda: answered(watched))


def test_ray_that_died_is_started_again(watched: Watched, way: str) -> None:
    if way != "ray_serve":
        pytest.skip("there is no Ray")
    ((name, driver),) = watched.deployment.processes.items()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(driver)}
    for pid, command in commands.items():
        if b"raylet/raylet" in command or command.startswith((b"ray::ServeReplica", b"ray::Replica")):
            os.kill(pid, signal.SIGKILL)
    until(lambda: watched.deployment.processes[name] != driver, seconds=120)
    assert any(line.startswith(("ray-serve hangs", "ray-serve ended")) for line in watched.said)
    until(lambda: answered(watched), seconds=180)


def test_it_listens_on_loopback_alone(watched: Watched, way: str) -> None:
    if way != "processes":
        pytest.skip("what Ray opens is tested with `up`")
    pids = [*watched.deployment.processes.values(), os.getpid()]
    assert all(address.is_loopback for address, _, _ in listening(pids))


def test_stopped_it_leaves_nothing(settings: Settings, watched: Watched) -> None:
    until(lambda: answered(watched))
    answer = watched.ask()
    pids = list(watched.deployment.processes.values())
    watched.stop()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert answer["id"] in shipped(settings)
    assert list(settings.place("serving", "spool").glob("*.spool")) == []
    with bind("127.0.0.1", watched._port):
        pass
