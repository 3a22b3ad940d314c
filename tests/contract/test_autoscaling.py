"""Ray Serve starts replicas while requests need them, and ends them without losing a request."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.contract.supervised import INSTANCE, RAY_WARNINGS, SupervisedDeployment
from tests.serving.small_project import (
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace.config.settings import load_settings
from headrace.kernel.errors import ProjectError
from headrace.serving.deployment import processes, ray_serve
from headrace.serving.release import Arm

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are listed from /proc"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]
SCALING = """serving = "ray_serve"
max_replicas = 2
target_ongoing_requests = 1
upscale_delay = 0
downscale_delay = 2
"""
CLIENTS = 8
LARGE = {"instances": [INSTANCE] * 5_000}  # the replica answers one after the other: the others are in progress


def post(port: int, body: str) -> int:
    """The status of a request on a connection of its own, whose answer has arrived whole."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with closing(connection):
        connection.request("POST", "/predict/purchase", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def test_replicas_follow_the_ongoing_requests(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    put_bundle(project, {1: fit_booster(1)}, 1, plan_of())
    put_features(project, plan_of(), {7: (9.5, 190)})
    put_release(project, Arm(1))
    path = project.root / "headrace.toml"
    path.write_text(path.read_text() + SCALING)
    running = SupervisedDeployment(load_settings(project.root))
    is_idle, is_done = threading.Event(), threading.Event()
    statuses: list[int] = []

    def send(is_last: bool) -> None:
        while not (is_done if is_last else is_idle).wait(0.02 if is_idle.is_set() else 0.0):
            body = {"instances": [INSTANCE]} if is_idle.is_set() else LARGE
            statuses.append(post(running.port, json.dumps(body)))

    try:
        with ThreadPoolExecutor(CLIENTS) as threads:
            senders = [threads.submit(send, n == 0) for n in range(CLIENTS)]
            try:
                until(lambda: running.count_replicas() == (0, 1), "no second replica started", seconds=120)
                is_idle.set()  # one client goes on, with a request at a time and pauses between
                until(lambda: running.count_replicas() == (1, 1), "no replica ended", seconds=120)
                answered = len(statuses)
                until(lambda: len(statuses) > answered + 20)
            finally:
                is_idle.set()
                is_done.set()
            for sender in senders:
                sender.result()
    finally:
        running.stop()
    assert set(statuses) == {200}


def test_replicas_that_are_processes_do_not_scale(tmp_path: Path) -> None:
    settings = make_project(tmp_path / "project").with_values(max_replicas=2)
    with pytest.raises(ProjectError, match=r"max_replicas: .*do not scale"):
        processes.start(settings, port=0)


def test_the_most_replicas_are_not_fewer_than_the_least(tmp_path: Path) -> None:
    settings = make_project(tmp_path / "project").with_values(max_replicas=2, replicas=3)
    with pytest.raises(ProjectError, match="max_replicas: it is 2, and the least number, replicas, is 3"):
        ray_serve.start(settings, port=0)
