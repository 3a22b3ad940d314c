"""`up` with real processes: it listens on loopback, replaces dead processes, and ends all of them."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from tests.flows.processes import MARK, listening_sockets, processes_with_mark
from tests.serving.small_project import (
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace import lake, log
from headrace.config.settings import load_settings
from headrace.flows.models.predict import predict
from headrace.http.serve import bind
from headrace.kernel.errors import CallError, Unavailable
from headrace.projects.running import find_up
from headrace.runtime.up import up
from headrace.serving.prediction import TOPIC as PREDICTIONS
from headrace.serving.release import Arm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes and sockets are listed from /proc")

PROGRAM = """
import sys
from pathlib import Path
from headrace.config.settings import load_settings
from headrace.runtime.up import up
settings = load_settings(Path(sys.argv[1]))
up(settings, lambda state: print("ready", flush=True), report=lambda line: print(line, flush=True))
print("ended", flush=True)
"""
INSTANCE = {"user_id": 1, "product_id": 7, "price": 3.5}


class RunningUp:
    """A process that runs `up`. A mark in the environment finds it and its descendants."""

    def __init__(self, settings):
        self.settings = settings
        self.mark = uuid4().hex
        self.output = settings.root / "up.log"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(settings.root)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, MARK: self.mark},
            )
        until(lambda: "ready" in self.output.read_text() or self.process.poll() is not None, seconds=240)
        assert self.process.poll() is None, self.output.read_text()
        self.up = find_up(settings)

    def kill_all(self):
        for pid in processes_with_mark(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def run_up(settings):
    app = RunningUp(settings)
    try:
        yield app
    finally:
        app.kill_all()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("up") / "project")
    with (project.root / "headrace.toml").open("a") as file:
        file.write('[schedule.rare]\ncron = "0 0 29 2 *"\n')
    put_bundle(project, {1: fit_booster(1)}, 1, plan_of())
    put_features(project, plan_of(), {7: (9.5, 190)})
    put_release(project, Arm(1))
    return project


@pytest.fixture(scope="module")
def app(settings):
    with run_up(settings) as running_app:
        yield running_app


def table_rows(settings, name):
    opened = lake.open(settings)
    if not opened.table_exists(name):
        return []
    return opened.table(name).scan().collect().to_dicts()


def test_every_socket_of_every_process_is_on_loopback(app):
    sockets = listening_sockets(processes_with_mark(app.mark))
    ports = {port for _, port, _ in sockets}
    assert {urlsplit(url).port for url in (app.up.predict, app.up.collector)} <= ports
    names = processes_with_mark(app.mark)
    assert [(str(a), port, names[pid]) for a, port, pid in sockets if not a.is_loopback] == []


def test_a_prediction_and_the_release_are_rows_of_their_tables(app, settings):
    answer = predict(settings, "purchase", {"user_id": "1", "product_id": "7", "price": "3.5"}, explain=True)
    assert (answer["version"], answer["missing"]) == (1, [])
    assert answer["features"] == {"facts__mean_price": 9.5, "facts__views": 190.0}
    row = until(lambda: [r for r in table_rows(settings, "headrace_predictions") if r["id"] == answer["id"]])[0]
    assert (row["_valid"], json.loads(row["value"]), json.loads(row["entity"])) == (
        True,
        answer["value"],
        {"user_id": 1, "product_id": 7},
    )
    releases = until(lambda: table_rows(settings, "headrace_releases"))
    assert releases[0]["arms"][0]["version"] == 1
    with pytest.raises(CallError, match="price"):
        predict(settings, "purchase", {"user_id": "1", "product_id": "7"})
    with pytest.raises(CallError, match="absent"):
        predict(settings, "absent", {})


def test_an_event_posted_to_the_collector_is_a_row_of_its_table(app, settings):
    event = {"at": datetime.now(UTC).isoformat(), "user_id": 3}
    answer = httpx.post(f"{app.up.collector}/events/clicks", json=event)
    assert answer.status_code == 202
    rows = until(lambda: table_rows(settings, "clicks"))
    assert [row["user_id"] for row in rows] == [3]


def test_a_release_is_activated_while_up_runs(app, settings):
    put_bundle(settings, {2: fit_booster(-1)}, 2, plan_of())
    put_release(settings, Arm(2))
    until(lambda: predict(settings, "purchase", INSTANCE)["version"] == 2)


def test_a_second_up_is_refused_and_names_the_pid_of_the_first(app, settings):
    with pytest.raises(Unavailable, match=str(app.process.pid)):
        up(settings)


def test_killed_processes_are_replaced_and_reported(app, settings):
    before = find_up(settings).processes
    names = ("collector", "ingest", "scheduler")
    for name in names:
        os.kill(before[name], signal.SIGKILL)

    def are_replaced():
        now = find_up(settings).processes
        return all(now[name] != before[name] for name in names)

    until(are_replaced)
    output = app.output.read_text()
    assert "collector ended (signal 9)" in output
    assert "ingest ended (signal 9)" in output
    assert "scheduler ended (signal 9)" in output
    event = {"at": datetime.now(UTC).isoformat(), "user_id": 4}

    def is_accepted():
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(f"{app.up.collector}/events/clicks", json=event).status_code == 202
        return False

    until(is_accepted)
    until(lambda: 4 in [row["user_id"] for row in table_rows(settings, "clicks")])


def predictions_on_log(settings):
    """The ids of the predictions on the log."""
    opened = log.open(settings.log.url)
    try:
        batch = opened.read(PREDICTIONS, dict.fromkeys(range(opened.partitions(PREDICTIONS)), 0), 100_000)
    finally:
        opened.close()
    return [json.loads(value)["id"] for value in batch.values]


def test_sigterm_ends_every_process_and_ships_the_last_prediction(app, settings):
    answer = predict(settings, "purchase", INSTANCE)
    ports = [urlsplit(url).port for url in (app.up.predict, app.up.collector)]
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(180) == 0, app.output.read_text()
    assert app.output.read_text().endswith("ended\n")
    assert until(lambda: processes_with_mark(app.mark) == {} or None) is True
    for port in ports:
        bind("127.0.0.1", port).close()
    assert find_up(settings) is None
    with pytest.raises(Unavailable, match="the predict endpoint is not running"):
        predict(settings, "purchase", INSTANCE)
    # The last prediction was shipped before the end.
    assert list(settings.place("serving", "spool").glob("*.spool")) == []
    assert answer["id"] in predictions_on_log(settings)


def test_a_killed_up_leaves_no_process_and_the_next_one_continues(settings):
    with run_up(settings) as killed:
        answer = predict(settings, "purchase", INSTANCE)
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        # Ray's agent checks for its parent every half minute.
        until(lambda: processes_with_mark(killed.mark) == {})
        assert find_up(settings) is None
    with run_up(settings):
        until(lambda: answer["id"] in [row["id"] for row in table_rows(settings, "headrace_predictions")])
        assert predict(settings, "purchase", INSTANCE)["version"] == answer["version"]


def test_up_without_the_log_answers_by_the_last_release_and_starts_the_rest_when_it_is_back(tmp_path):
    settings = make_project(tmp_path / "project")
    put_bundle(settings, {1: fit_booster(1)}, 1, plan_of())
    put_features(settings, plan_of(), {7: (9.5, 190)})
    put_release(settings, Arm(1))
    folder, aside = settings.place("log"), settings.place("log-aside")
    folder.rename(aside)
    folder.write_text("no folder")
    with pytest.raises(Unavailable, match="the log's folder cannot be created"):  # nothing to answer by yet
        up(settings)
    folder.unlink()
    aside.rename(folder)
    with run_up(settings):
        pass
    folder.rename(aside)
    folder.write_text("no folder")
    with run_up(settings) as app:
        assert "only the endpoint starts, with its last releases" in app.output.read_text()
        answer = predict(settings, "purchase", INSTANCE)
        assert answer["version"] == 1
        folder.unlink()
        aside.rename(folder)
        until(lambda: "the log can be reached" in app.output.read_text())
        rows = until(lambda: table_rows(settings, "headrace_predictions"))
        assert answer["id"] in {row["id"] for row in rows}
        until(lambda: httpx.get(f"{app.up.collector}/healthz").status_code == 200)


def test_a_port_in_use_is_named_with_its_setting(tmp_path):
    settings = make_project(tmp_path / "project")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        text = (settings.root / "headrace.toml").read_text()
        (settings.root / "headrace.toml").write_text(
            text.replace("collector_port = 0", f"collector_port = {port}")
        )
        with pytest.raises(Unavailable) as caught:
            up(load_settings(settings.root))
    assert f"port {port}" in caught.value.what
    assert "collector_port" in caught.value.where
    assert find_up(settings) is None
