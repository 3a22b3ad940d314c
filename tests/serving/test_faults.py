"""A deployment under load while its parts fail: the log, the registry, its replicas, a bundle. Every answer is
right, every one is on the log once, and nothing is refused that could be answered."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import sys
import threading
from collections import Counter
from contextlib import closing, contextmanager

import httpx
import pytest
from tests.contract.supervised import SupervisedDeployment
from tests.serving.small_project import plan_of, put_bundle, put_release, put_trained
from tests.until import until

from headrace import log as logs
from headrace import registry
from headrace.config.settings import load_settings
from headrace.declare.trainers import Sklearn
from headrace.serving.prediction import TOPIC
from headrace.serving.release import Arm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are killed by their numbers")

VIEWS = {7: 190, 8: 10}  # product → views; version 1 says yes to many, version 2 to few
DEAD = "127.0.0.1:9"  # nothing listens there


@pytest.fixture(autouse=True)
def patient_supervisor(monkeypatch):
    """No replica hangs here: a heartbeat that is late means that the machine is busy."""
    monkeypatch.setattr("headrace.kernel.children._DELAYED", 120.0)
    monkeypatch.setattr("headrace.kernel.children._SILENT", 120.0)


class Load:
    """Threads that ask without a pause, each on its own connection, until the block ends.

    Attributes:
        answers: the bodies of the answers with 200, with the user and the product that were asked for.
        refusals: status → how many other answers there were; None counts lost connections.
    """

    def __init__(self, url, threads=3):
        self.answers, self.refusals = [], Counter()
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, user):
        product = 7
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stop.is_set():
                user, product = (user + 3) % 99, 15 - product
                body = {"user_id": user, "product_id": product, "price": 1.0}
                try:
                    answer = client.post("/predict/purchase", json=body)
                except httpx.TransportError:
                    self.refusals[None] += 1
                    continue
                if answer.status_code == 200:
                    self.answers.append((user, product, answer.json()))
                else:
                    self.refusals[answer.status_code] += 1

    def await_answers(self, count=100):
        """Waits for so many further answers."""
        before = len(self.answers)
        until(lambda: len(self.answers) >= before + count)


@contextmanager
def run_deployment(settings):
    running = SupervisedDeployment(settings)
    try:
        yield running
    finally:
        running.stop()


def read_logged(settings):
    """Id → each record on the log with it."""
    with closing(logs.open(settings.log.url)) as topics:
        offset, records = 0, {}
        while values := topics.read(TOPIC, {0: offset}, 10_000).values:
            offset += len(values)
            for value in values:
                record = json.loads(value)
                records.setdefault(record["id"], []).append(record)
    return records


def check_answers(settings, load, expected_version=None):
    """Each answer is its version's, and is logged once as it was answered. Returns what is logged."""
    logged = read_logged(settings)
    assert len({answer["id"] for *_, answer in load.answers}) == len(load.answers)
    for user, product, answer in load.answers:
        assert (answer["value"] > 0.5) == ((VIEWS[product] > 100) == (answer["version"] == 1))
        assert expected_version in (None, answer["version"])
        (record,) = logged[answer["id"]]
        assert record["entity"] == {"user_id": user, "product_id": product}
        assert (record["value"], record["version"], record["arm"]) == (
            answer["value"],
            answer["version"],
            answer["arm"],
        )
        assert record["shadow_of"] is None
    return logged


@contextmanager
def hold_log(settings):
    """Nobody else can write to the log while the block runs."""
    (path,) = settings.place("log").rglob(f"*{TOPIC}*.db")
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def test_predictions_wait_for_a_log_that_takes_none_and_are_shipped_when_it_does(project):
    spool = project.place("serving", "spool")
    with run_deployment(project) as running:
        with Load(running.deployment.url) as load:
            load.await_answers()
            with hold_log(project):
                load.await_answers(300)
                assert sum(path.stat().st_size for path in spool.glob("*.spool")) > 0
            load.await_answers()
        until(lambda: {answer["id"] for *_, answer in load.answers} <= read_logged(project).keys())
    assert load.refusals == {}
    assert check_answers(project, load, 1).keys() == {answer["id"] for *_, answer in load.answers}


def test_replicas_that_are_killed_under_a_split_and_a_shadow_lose_no_acknowledged_prediction(project):
    project = project.with_values(replicas=2)
    arms = (Arm(1, 0.5), Arm(2, 0.5, name="challenger"), Arm(2, shadow=True, name="shadow"))
    with run_deployment(project) as running:
        release = put_release(project, *arms)
        until(lambda: all(_is_in_force(running, release) for _ in range(20)))  # whichever replica answers
        with Load(running.deployment.url) as load:
            for _ in range(3):
                load.await_answers()
                for name, pid in running.deployment.processes.items():
                    os.kill(pid, signal.SIGKILL)
                    until(lambda name=name, pid=pid: running.deployment.processes[name] != pid)
                    load.await_answers(20)
            load.await_answers()
    assert load.refusals.keys() <= {None, 503}
    logged = check_answers(project, load)
    assert all(len(records) == 1 for records in logged.values())
    arms_of = {}
    for user, _, answer in load.answers:
        arms_of.setdefault(user, set()).add(answer["arm"])
    assert all(len(names) == 1 for names in arms_of.values())  # an entity keeps its arm
    shadows = [record for (record,) in logged.values() if record["shadow"]]
    shadowed = [record["shadow_of"] for record in shadows]
    assert shadows
    assert len(set(shadowed)) == len(shadowed)
    assert {record["version"] for record in shadows} == {2}
    assert set(shadowed) <= logged.keys()  # also those whose client did not get its answer


def test_under_overload_shadows_are_shed_and_counted_and_no_answer_is(project):
    from sklearn.ensemble import RandomForestClassifier

    put_trained(project, Sklearn(RandomForestClassifier(200)), version=3)  # its rows are predicted one by one
    put_release(project, Arm(1), Arm(3, shadow=True, name="shadow"))
    with run_deployment(project) as running:
        with Load(running.deployment.url, threads=24) as load:
            until(lambda: _read_count(running, "shed_shadows") > 0 and len(load.answers) > 500)
        assert load.refusals == {}

        def are_all_accounted_for():
            shadows = _read_count(running, "shed_shadows") + _read_count(running, "failed_shadows")
            copied = sum(record["shadow"] for (record,) in read_logged(project).values())
            return shadows + copied == len(load.answers)

        until(are_all_accounted_for)
    logged = check_answers(project, load, 1)
    shadowed = [record["shadow_of"] for (record,) in logged.values() if record["shadow"]]
    assert len(set(shadowed)) == len(shadowed)
    assert set(shadowed) <= {answer["id"] for *_, answer in load.answers}


def _read_count(running, name):
    text = httpx.get(f"{running.deployment.url}/metrics").text
    return float(re.search(rf"^headrace_{name}_total (\S+)$", text, re.MULTILINE)[1])


def _is_in_force(running, release):
    return (
        httpx.get(f"{running.deployment.url}/models").json()["models"]["purchase"]["release"]["id"]
        == release.id
    )


def test_a_bundle_that_was_changed_is_refused_while_the_version_before_answers(project, boosters):
    put_bundle(project, boosters, 3, plan_of())
    (path,) = registry.open(project).bundle_folder("purchase", 3).rglob("*.ubj")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with run_deployment(project) as running, Load(running.deployment.url) as load:
        load.await_answers()
        bad = put_release(project, Arm(3))
        until(lambda: _read_failures(running).get("purchase", {}).get("release") == bad.id)
        load.await_answers()
        put_release(project, Arm(2))
        until(lambda: load.answers[-1][2]["version"] == 2)
    assert load.refusals == {}
    assert {answer["version"] for *_, answer in load.answers} == {1, 2}
    check_answers(project, load)


def _read_failures(running):
    return httpx.get(f"{running.deployment.url}/models").json()["failed"]


def test_a_replica_that_starts_without_the_registry_answers_by_the_last_release(project, monkeypatch):
    """A version that is new here cannot be fetched: the one before answers, also after the next start."""
    put_release(project, Arm(2))
    monkeypatch.setenv("HEADRACE_MLFLOW", f"http://{DEAD}")  # the replicas read it
    with run_deployment(load_settings(project.root)) as running, Load(running.deployment.url) as load:
        load.await_answers()
        put_release(project, Arm(9))
        until(lambda: "purchase" in _read_failures(running))
        (pid,) = running.deployment.processes.values()
        os.kill(pid, signal.SIGKILL)
        until(lambda: [*running.deployment.processes.values()] != [pid])
        load.await_answers()
    assert load.refusals.keys() <= {None, 503}
    check_answers(project, load, 2)


@pytest.mark.parametrize("log", [None, pytest.param(f"kafka://{DEAD}", marks=pytest.mark.soak)])  # it waits
def test_everything_that_starts_without_registry_and_log_answers_by_the_last_release(project, log, monkeypatch):
    put_release(project, Arm(2))
    with run_deployment(project):
        pass
    folder, aside = project.place("log"), project.place("log-aside")
    with monkeypatch.context() as away:
        away.setenv("HEADRACE_MLFLOW", f"http://{DEAD}")
        if log is None:
            folder.rename(aside)
            folder.write_text("no folder")
        else:
            away.setenv("HEADRACE_LOG", log)
        with run_deployment(load_settings(project.root)) as running, Load(running.deployment.url) as load:
            load.await_answers()
    assert load.refusals == {}
    if log is None:
        folder.unlink()
        aside.rename(folder)
    with run_deployment(project) as running:
        until(lambda: {answer["id"] for *_, answer in load.answers} <= read_logged(project).keys())
    check_answers(project, load, 2)
