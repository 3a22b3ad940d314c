"""The contract of Deployment for processes and Ray Serve: replicas answer, follow releases, restart and end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.contract.keep_alive import run_clients
from tests.contract.supervised import INSTANCE, RAY_WARNINGS, SupervisedDeployment
from tests.flows.processes import descendants, listening_sockets
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
from headrace.config.serving import ServingSettings
from headrace.config.settings import Settings, load_settings
from headrace.http.serve import bind
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.serving import deployment as deployments
from headrace.serving.deployment import processes, ray_serve
from headrace.serving.deployment.ray_driver import find_scaling
from headrace.serving.prediction import TOPIC
from headrace.serving.release import Arm
from headrace.serving.slots import REPLICAS, count_slots

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are listed from /proc"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]


SCALING = """max_replicas = 3
target_ongoing_requests = 4
upscale_delay = 0
downscale_delay = 4
"""
STALL = 4.0  # seconds for which replicas do not run: more than Serve waits for a HAProxy that it misses
SLOW = 12  # requests at a time: more than two replicas should have in progress


@pytest.fixture(scope="module")
def boosters() -> dict[int, bytes]:
    return {1: fit_booster(1), 2: fit_booster(-1)}


@pytest.fixture(scope="module", params=["processes", "ray_serve"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def processes_only(kind: str) -> None:
    if kind != "processes":
        pytest.skip("Ray supervises its replicas itself")


@pytest.fixture
def ray_serve_only(kind: str) -> None:
    if kind != "ray_serve":
        pytest.skip("Ray does not run")


@pytest.fixture(scope="module")
def settings(kind: str, boosters: dict[int, bytes], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_settings(tmp_path_factory.mktemp(kind) / "project", kind, boosters)


def make_settings(root: Path, kind: str, boosters: dict[int, bytes]) -> Settings:
    """A project with versions 1 and 2, version 1 released, and two replicas."""
    project = make_project(root)
    if kind == "ray_serve":
        path = project.root / "headrace.toml"
        path.write_text(path.read_text() + SCALING)
        project = load_settings(project.root)
    for version in (1, 2):
        put_bundle(project, boosters, version, plan_of())
    put_features(project, plan_of(), {7: (9.5, 190)})
    put_release(project, Arm(1))
    return project.with_values(serving=kind, replicas=2)


@pytest.fixture(scope="module")
def running(settings: Settings) -> Iterator[SupervisedDeployment]:
    running = SupervisedDeployment(settings)
    yield running
    running.stop()


def find_processes(parent: int, command: bytes) -> list[int]:
    """The process ids of the descendants of the parent whose command has this part."""

    def read_command(pid: int) -> bytes:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:  # it has ended
            return b""

    return [pid for pid in descendants(parent) if command in read_command(pid)]


def read_shipped(settings: Settings) -> list[str]:
    """The ids of the predictions on the log, in its order."""
    topics = log.open(settings.log.url)
    ids: list[str] = []
    try:
        while batch := topics.read(TOPIC, {0: len(ids)}, 100_000).values:
            ids += [json.loads(value)["id"] for value in batch]
    finally:
        topics.close()
    return ids


def test_a_deployment_answers_once_started_and_ships_predictions(
    running: SupervisedDeployment, settings: Settings
) -> None:
    answer = running.predict()
    assert (answer["version"], answer["missing"]) == (1, [])
    until(lambda: answer["id"] in read_shipped(settings))


def test_kserves_protocol_is_answered(running: SupervisedDeployment) -> None:
    path = "/v1/models/purchase"
    unknown = {**INSTANCE, "product_id": 404}
    answer = running.post(f"{path}:predict", {"instances": [INSTANCE, unknown, INSTANCE]})
    first, other, last = answer.json()["predictions"]
    assert first == last == running.predict()["value"]
    assert isinstance(other, float)
    assert httpx.get(f"{running.deployment.url}{path}", timeout=30).json() == {
        "name": "purchase",
        "ready": True,
    }
    refused = running.post(f"{path}:predict", {"instances": [INSTANCE, {"user_id": 1}]})
    assert (refused.status_code, list(refused.json())) == (422, ["error"])
    assert refused.json()["error"].startswith("instances[1].product_id: ")


def read_answers(running: SupervisedDeployment) -> float:
    """How many predictions were answered with 200, by the replica that answers a scrape."""

    def scrape() -> str | None:
        try:
            answer = httpx.get(f"{running.deployment.url}/metrics", timeout=30)
        except httpx.TransportError:  # a killed replica had accepted the connection
            return None
        return answer.text if answer.status_code == 200 else None  # 503: no replica is ready

    families = {family.name: family for family in text_string_to_metric_families(until(scrape))}
    return sum(
        sample.value
        for sample in families["headrace_predict_answers"].samples
        if sample.labels == {"status": "200"}
    )


def test_a_scrape_has_what_all_replicas_counted(running: SupervisedDeployment) -> None:
    scrapes = [read_answers(running)]
    for _ in range(30):  # each has its own connection, to either replica
        running.predict()
        scrapes.append(read_answers(running))
    until(lambda: {read_answers(running) for _ in range(8)} == {running.answers})
    assert scrapes == sorted(scrapes)


def test_a_release_is_activated(running: SupervisedDeployment, settings: Settings) -> None:
    put_release(settings, Arm(2))
    until(lambda: {running.predict()["version"] for _ in range(8)} == {2})


def test_a_rolling_restart_cuts_no_request(running: SupervisedDeployment, kind: str) -> None:
    before = running.deployment.processes
    running.roll.set()
    if kind != "processes":  # HAProxy closes connections when it learns of another replica
        until(lambda: "the replicas are deployed again" in running.reports)
        until(running.is_answering)
        return
    with run_clients(running.port, 8, pause=0.05) as clients:
        until(lambda: "replica-2 was replaced" in running.reports)
    running.answers += clients.statuses[200]
    assert (clients.cut, clients.refused) == ([], 0)
    assert clients.statuses == {200: clients.requests}
    assert clients.requests > 20
    assert set(running.deployment.processes.values()).isdisjoint(before.values())


@pytest.mark.usefixtures("processes_only")
def test_if_a_new_replica_does_not_start_the_old_ones_continue(running: SupervisedDeployment) -> None:
    until(running.is_answering)
    before = running.deployment.processes
    new_pid = running.begin_roll()
    os.kill(new_pid, signal.SIGKILL)
    until(lambda: any(line.startswith("replica-1 was not replaced") for line in running.reports))
    assert running.deployment.processes == before
    assert running.is_answering()


@pytest.mark.usefixtures("processes_only")
def test_during_a_rolling_restart_a_killed_replica_is_replaced_at_once(
    running: SupervisedDeployment,
) -> None:
    """Even while the new replica of the rolling restart does not become ready."""
    until(running.is_answering)
    before = running.deployment.processes
    new_pid = running.begin_roll()
    os.kill(new_pid, signal.SIGSTOP)
    os.kill(before["replica-2"], signal.SIGKILL)
    until(lambda: running.deployment.processes["replica-2"] != before["replica-2"])
    rolled = running.reports.count("replica-2 was replaced")
    os.kill(new_pid, signal.SIGCONT)
    until(lambda: running.reports.count("replica-2 was replaced") > rolled)
    assert running.deployment.processes["replica-1"] == new_pid


def test_a_port_in_use_is_an_error(settings: Settings) -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(Unavailable, match="in use"):
        deployments.start(settings, port=taken.getsockname()[1])


def test_replicas_that_are_processes_do_not_follow_the_load(settings: Settings) -> None:
    with pytest.raises(ProjectError, match=r"max_replicas: .* does not follow the load"):
        processes.start(settings.with_values(max_replicas=3), port=0)


def test_the_most_replicas_are_not_fewer_than_the_least(settings: Settings) -> None:
    with pytest.raises(ProjectError, match="max_replicas: it is 1, and replicas, the least number, is 2"):
        ray_serve.start(settings.with_values(max_replicas=1), port=0)


@pytest.mark.parametrize(("downscale_delay", "look_back"), [(4.0, 2.0), (600.0, 30.0)])
def test_a_load_is_forgotten_when_a_replica_ends(downscale_delay: float, look_back: float) -> None:
    serving = ServingSettings(Path(), max_replicas=2, downscale_delay=downscale_delay)
    scaling = find_scaling(serving)["autoscaling_config"]
    assert scaling["look_back_period_s"] == look_back
    assert look_back + 2 * scaling["metrics_interval_s"] <= downscale_delay


@pytest.mark.usefixtures("processes_only")
def test_a_killed_replica_is_replaced_and_reported(running: SupervisedDeployment) -> None:
    scrapes = [read_answers(running)]
    for replica, pid in running.deployment.processes.items():
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid, replica=replica: running.deployment.processes[replica] != pid)
        until(running.is_answering)
        assert any(line.startswith(f"{replica} ended (signal 9)") for line in running.reports)
        scrapes += [read_answers(running) for _ in range(8)]
    until(lambda: read_answers(running) > scrapes[0])
    assert scrapes == sorted(scrapes)


@pytest.mark.usefixtures("processes_only")
def test_while_no_replica_is_ready_the_answer_is_503(running: SupervisedDeployment) -> None:
    for pid in running.deployment.processes.values():
        os.kill(pid, signal.SIGKILL)
    statuses = []

    def is_back() -> bool:
        # A connection that a killed replica had accepted is reset. A new one is answered.
        try:
            answer = httpx.post(f"{running.deployment.url}/predict/purchase", json=INSTANCE, timeout=30)
        except httpx.TransportError:
            return False
        statuses.append((answer.status_code, answer.headers["content-type"]))
        return answer.status_code == 200

    until(is_back)
    assert {status for status, _ in statuses} <= {200, 503}
    assert {kind for _, kind in statuses} == {"application/json"}


@pytest.mark.soak
@pytest.mark.usefixtures("processes_only")
def test_under_full_load_no_request_is_cut_while_replicas_come_and_go(
    boosters: dict[int, bytes], tmp_path: Path
) -> None:
    """Each replica is ended by SIGTERM, then all are replaced, then the deployment ends."""
    settings = make_settings(tmp_path / "project", "processes", boosters)
    running = SupervisedDeployment(settings)
    with run_clients(running.port, 32) as clients:
        for name, pid in running.deployment.processes.items():
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid, name=name: running.deployment.processes[name] != pid)
            until(lambda: all(replica.responsive for replica in running.deployment._replicas), seconds=240)
        running.roll.set()
        until(lambda: "replica-2 was replaced" in running.reports, seconds=240)
        assert (clients.refused, {*clients.statuses}) == (0, {200})
        running.stop()
        until(lambda: clients.refused > 32)
    assert clients.cut == []
    assert {*clients.statuses} <= {200, 503}
    assert sorted(read_shipped(settings)) == sorted(clients.ids)  # each once, and no other


@pytest.mark.soak
@pytest.mark.usefixtures("ray_serve_only")
def test_a_stop_cuts_no_request_while_the_driver_starts_again(
    boosters: dict[int, bytes], tmp_path: Path
) -> None:
    """HAProxy answers 503 before the driver is ready."""
    settings = make_settings(tmp_path / "project", "ray_serve", boosters)
    running = SupervisedDeployment(settings)
    ((name, driver),) = running.deployment.processes.items()
    with run_clients(running.port, 16) as clients:
        until(lambda: clients.statuses[200] > 200)
        os.kill(driver, signal.SIGTERM)
        until(lambda: running.deployment.processes[name] != driver)
        unavailable = clients.statuses[503]
        until(lambda: clients.statuses[503] > unavailable)
        running.stop()
    assert clients.cut == []
    assert {*clients.ids} <= {*read_shipped(settings)}


@pytest.mark.usefixtures("processes_only")
def test_a_hanging_replica_is_killed_and_replaced(
    running: SupervisedDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kernel.children._SILENT", 3.0)
    name, pid = next(iter(running.deployment.processes.items()))
    until(running.is_answering)
    until(lambda: running.deployment._replicas[0]._beat is not None)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: running.deployment.processes[name] != pid)
    assert any(line.startswith(f"{name} hangs") for line in running.reports)
    until(running.is_answering)


@pytest.mark.usefixtures("processes_only")
def test_while_all_replicas_are_suspended_the_answer_is_503(
    running: SupervisedDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kernel.children._DELAYED", 1.0)
    until(running.is_answering)
    until(lambda: all(replica._beat is not None for replica in running.deployment._replicas))
    pids = list(running.deployment.processes.values())
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: running.deployment._fallback is not None)
        answer = httpx.post(f"{running.deployment.url}/predict/purchase", json=INSTANCE, timeout=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(running.is_answering)
    assert list(running.deployment.processes.values()) == pids


def find_settled(running: SupervisedDeployment, least: int) -> tuple[int, int] | None:
    """How many replicas have ended and started, once as many, and at least so many; None: not yet."""
    ended, started = running.count_replicas()
    return (ended, started) if ended == started >= least else None


def post_slowly(port: int, seconds: float) -> int:
    """The status of a prediction whose body arrives within so many seconds: it is in progress meanwhile."""
    body = json.dumps({"instances": [INSTANCE]}).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest("POST", "/predict/purchase")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:1])
        time.sleep(seconds)
        connection.send(body[1:])
        answer = connection.getresponse()
        answer.read()
        return answer.status


@pytest.mark.usefixtures("ray_serve_only")
def test_replicas_follow_the_requests_in_progress(running: SupervisedDeployment, settings: Settings) -> None:
    """No request is lost and no counter falls as they come and go, and none comes again without a reason."""
    rolls = running.reports.count("the replicas are deployed again")
    ended, started = until(lambda: find_settled(running, 2 * rolls), "a rolling restart has not ended")
    replicas = settings.place("serving", REPLICAS)
    is_busy, statuses, scrapes = True, [], [read_answers(running)]

    def send() -> None:
        while is_busy:
            statuses.append(post_slowly(running.port, seconds=3))

    with ThreadPoolExecutor(SLOW) as threads:
        senders = [threads.submit(send) for _ in range(SLOW)]
        try:
            until(lambda: running.count_replicas() == (ended, started + 1), "no replica started", seconds=120)
            until(lambda: count_slots(replicas) == 3)
            scrapes += [read_answers(running) for _ in range(8)]
        finally:
            is_busy = False
        for sender in senders:
            sender.result()
    until(lambda: running.count_replicas() == (ended + 1, started + 1), "no replica ended", seconds=120)
    scrapes += [read_answers(running) for _ in range(8)]
    assert scrapes == sorted(scrapes)
    assert scrapes[-1] - scrapes[0] >= len(statuses) >= SLOW
    assert set(statuses) == {200}
    assert count_slots(replicas) == 2


@pytest.mark.usefixtures("ray_serve_only")
def test_a_replica_and_a_balancer_of_ray_that_died_are_replaced_and_reported(
    running: SupervisedDeployment,
) -> None:
    ((_, driver),) = running.deployment.processes.items()

    rolls = running.reports.count("the replicas are deployed again")
    ended, started = until(lambda: find_settled(running, 2 * rolls), "a rolling restart has not ended")
    os.kill(find_processes(driver, b"ray::ServeReplica")[0], signal.SIGKILL)
    until(lambda: running.count_replicas() == (ended + 1, started + 1))
    until(running.is_answering)
    (balancer,) = find_processes(driver, b"bin/haproxy")
    os.kill(balancer, signal.SIGKILL)
    until(lambda: "ray-serve: the predict endpoint answers again" in running.reports)
    until(running.is_answering)
    assert running.deployment.processes == {"ray-serve": driver}


@pytest.mark.usefixtures("ray_serve_only")
def test_a_controller_of_ray_that_died_is_replaced_while_requests_are_answered(
    running: SupervisedDeployment,
) -> None:
    ((name, driver),) = running.deployment.processes.items()
    (controller,) = find_processes(driver, b"ray::ServeController")
    (*_, replica) = find_processes(driver, b"ray::ServeReplica")
    os.kill(controller, signal.SIGKILL)
    for _ in range(20):
        running.predict()
    until(lambda: {*find_processes(driver, b"ray::ServeController")} - {controller}, seconds=120)
    os.kill(replica, signal.SIGKILL)  # the new controller replaces it
    until(lambda: {*find_processes(driver, b"ray::ServeReplica")} - {replica}, seconds=120)
    until(running.is_answering, seconds=120)
    assert running.deployment.processes == {name: driver}


@pytest.mark.usefixtures("ray_serve_only")
def test_a_ray_that_died_is_restarted(running: SupervisedDeployment) -> None:
    ((name, driver),) = running.deployment.processes.items()
    for pid in [*find_processes(driver, b"ray::ServeReplica"), *find_processes(driver, b"raylet/raylet")]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: running.deployment.processes[name] != driver, seconds=120)
    assert any(line.startswith(("ray-serve hangs", "ray-serve ended")) for line in running.reports)
    until(running.is_answering, seconds=180)


@pytest.mark.usefixtures("ray_serve_only")
def test_a_ray_whose_control_service_died_is_reported_and_restarted(
    running: SupervisedDeployment,
) -> None:
    ((name, driver),) = running.deployment.processes.items()
    (gcs,) = find_processes(driver, b"gcs/gcs_server")
    os.kill(gcs, signal.SIGKILL)
    until(lambda: running.deployment.processes[name] != driver, seconds=60)
    assert any("Ray's gcs_server died" in line for line in running.reports)
    until(running.is_answering, seconds=180)


@pytest.mark.usefixtures("processes_only")
def test_replicas_listen_on_loopback_only(running: SupervisedDeployment) -> None:
    pids = [*running.deployment.processes.values(), os.getpid()]
    assert all(address.is_loopback for address, _, _ in listening_sockets(pids))


def test_a_deployment_that_is_stopped_while_it_starts_ends_its_processes(settings: Settings) -> None:
    stop = threading.Event()
    stop.set()
    deployment = deployments.start(settings, port=0, stop=stop)
    sessions = set(deployment.processes.values())
    assert sessions & {os.getsid(pid) for pid in descendants(os.getpid())}
    deployment.stop()
    assert [pid for pid in psutil.pids() if os.getsid(pid) in sessions] == []


def test_a_stop_under_load_cuts_no_request_and_leaves_nothing(
    settings: Settings, running: SupervisedDeployment
) -> None:
    """What the replicas accepted is answered, though it takes them seconds. A request that arrives too late is
    answered with 503, or its connection is refused."""
    until(running.is_answering)
    pids = list(running.deployment.processes.values())
    replicas = [pid for parent in pids for pid in find_processes(parent, b"ray::ServeReplica")] or pids
    with run_clients(running.port, 8, pause=0.01) as clients:
        until(lambda: clients.statuses[200] > 50)
        for pid in replicas:
            os.kill(pid, signal.SIGSTOP)
        resume = threading.Timer(STALL, lambda: [os.kill(pid, signal.SIGCONT) for pid in replicas])
        resume.start()
        running.stop()
        resume.join()
        until(lambda: clients.refused > 8)
    assert clients.cut == []
    assert {*clients.statuses} <= {200, 503}
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert {*clients.ids} <= {*read_shipped(settings)}
    assert list(settings.place("serving", "spool").glob("*.spool")) == []
    with bind("127.0.0.1", running.port):
        pass
