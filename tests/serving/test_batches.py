"""Large requests, which a process beside the replica answers: as the replica itself would, and nobody waits."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from tests.serving.running import INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import plan_of, put_bundle, put_features, put_release
from tests.until import until

from headrace import registry
from headrace.kernel.process import is_alive, mark_of
from headrace.serving.kept import find_kept_releases
from headrace.serving.models import Models
from headrace.serving.release import Arm
from headrace.serving.servable import Servable

COUNT = 1_000  # instances of a large request: 46 KB


@pytest.fixture
def client(project):
    put_features(project, plan_of(), {n: (n / 7, n % 250) for n in range(0, COUNT, 2)})
    with run_endpoint(project) as client:
        yield client


def instances(count=COUNT):
    return [{**INSTANCE, "user_id": n % 97, "product_id": n} for n in range(count)]


def ask(client, body=None, path="/predict/purchase?explain=1"):
    return client.post(path, json=body or {"instances": instances()}, timeout=60)


def lane_of(client):
    return client.endpoint._handler._batches


def count_large(client):
    return client.endpoint._handler._large.count


def start_worker(client):
    """Asks until the process beside the replica answers; returns its process id."""
    ask(client)
    until(lambda: lane_of(client)._is_ready)
    return lane_of(client)._lane._process.pid


@contextmanager
def suspend(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def without_ids(answers):
    return [{key: value for key, value in answer.items() if key != "id"} for answer in answers]


@pytest.mark.parametrize(
    "split", [[Arm(1)], [Arm(1, 0.5), Arm(2, 0.5, name="challenger"), Arm(2, shadow=True, name="shadow")]]
)
def test_a_large_request_has_the_answers_that_the_replica_gives(client, project, split):
    released = put_release(project, *split)
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == released.id)
    by_replica = ask(client).json()["predictions"]  # the process starts
    start_worker(client)
    answer = ask(client)
    assert without_ids(answer.json()["predictions"]) == without_ids(by_replica)
    singles = [ask(client, instance).json() for instance in instances(60)]
    assert without_ids(singles) == without_ids(by_replica[:60])
    ids = [prediction["id"] for prediction in answer.json()["predictions"]]
    shadows = COUNT * sum(arm.shadow for arm in split)

    def read_logged():
        logged.extend(ship_predictions(project)[len(logged) :])
        return sum(prediction.shadow_of in set(ids) for prediction in logged) == shadows

    logged = []
    until(read_logged)
    own = {prediction.id: prediction for prediction in logged if prediction.id in set(ids)}
    assert [own[id_].instance for id_ in ids] == list(range(COUNT))
    assert {own[id_].release for id_ in ids} == {released.id}
    assert {own[id_].positions["facts"]["snapshot"] for id_ in ids} == {41}


def test_the_last_large_request_is_copied_to_the_shadows_before_the_replica_ends(project):
    put_features(project, plan_of(), {n: (n / 7, n % 250) for n in range(0, COUNT, 2)})
    put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    with run_endpoint(project) as client:
        start_worker(client)
        answer = ask(client, {"instances": instances(5 * COUNT)})
    ids = {prediction["id"] for prediction in answer.json()["predictions"]}
    assert sum(prediction.shadow_of in ids for prediction in ship_predictions(project)) == len(ids) == 5 * COUNT


def test_single_requests_and_probes_are_answered_while_a_large_one_is(client):
    worker = start_worker(client)
    with ThreadPoolExecutor(1) as thread, suspend(worker):
        large = thread.submit(ask, client)
        until(lambda: count_large(client) == 1)
        assert [ask(client, INSTANCE).status_code for _ in range(20)] == [200] * 20
        assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
        assert not large.done()
        os.kill(worker, signal.SIGCONT)
        assert large.result().status_code == 200


def test_what_the_process_counts_is_in_the_metrics(client):
    start_worker(client)

    def count():
        line = next(line for line in client.get("/metrics").text.splitlines() if "predictions_total{" in line)
        return int(line.split()[-1])

    before = count()
    assert ask(client).status_code == 200
    assert count() == before + COUNT
    assert ask(client, {"instances": [*instances(), {**INSTANCE, "price": "x"}]}).status_code == 422
    assert count() == before + COUNT


def test_a_large_request_is_answered_by_the_release_in_force(client, project):
    start_worker(client)
    released = put_release(project, Arm(2))
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == released.id)
    assert {prediction["version"] for prediction in ask(client).json()["predictions"]} == {2}


def test_what_the_process_cannot_load_the_replica_answers_itself(client, project):
    (registry.open(project).bundle_folder("purchase", 1) / "plan.json").write_bytes(b"{}")
    worker = start_worker(client)
    assert {prediction["version"] for prediction in ask(client).json()["predictions"]} == {1}
    with suspend(worker), ThreadPoolExecutor(1) as thread:
        large = thread.submit(ask, client)  # it did ask the process
        until(lambda: count_large(client) == 1)
        os.kill(worker, signal.SIGCONT)
        assert large.result().status_code == 200


@pytest.mark.parametrize(
    ("changed", "status", "field"),
    [
        ({"price": "x"}, 422, f"instances[{COUNT - 1}].price"),
        ({"pric": 1}, 422, f"instances[{COUNT - 1}].pric"),
        ({"user_id": None}, 422, f"instances[{COUNT - 1}].user_id"),
    ],
)
def test_an_error_of_a_large_request_is_that_of_the_replica(client, changed, status, field):
    body = {"instances": [*instances(COUNT - 1), {**INSTANCE, **changed}]}
    by_replica = ask(client, body)
    start_worker(client)
    answer = ask(client, body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert answer.json() == by_replica.json()


@pytest.mark.parametrize(
    "path",
    ["/predict/purchase?explain=2", "/v2/models/purchase/versions/9/infer", "/v1/models/purchase:predict"],
)
def test_each_protocol_answers_as_the_replica_does(client, path):
    by_replica = ask(client, path=path)
    start_worker(client)
    answer = ask(client, path=path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (
        by_replica.status_code,
        by_replica.headers["Content-Type"],
    )
    bodies = answer.json(), by_replica.json()
    assert [{**body, "ids": None} for body in bodies] == [{**bodies[0], "ids": None}] * 2


def test_a_large_request_for_features_is_answered_as_by_the_replica(client):
    keys = [{"product_id": n, "user_id": 1, "price": 1.0} for n in range(COUNT)]
    body = {"service": "purchase", "entities": keys}
    by_replica = ask(client, body, "/v1/features")
    assert by_replica.status_code == 200
    worker = start_worker(client)
    with suspend(worker), ThreadPoolExecutor(1) as thread:
        large = thread.submit(ask, client, body, "/v1/features")
        until(lambda: count_large(client) == 1)
        os.kill(worker, signal.SIGCONT)
        answer = large.result()
    assert answer.json()["rows"] == by_replica.json()["rows"]


def test_a_process_that_is_killed_costs_its_request_and_is_started_again(client, project):
    worker = start_worker(client)
    with ThreadPoolExecutor(1) as thread:
        os.kill(worker, signal.SIGSTOP)
        large = thread.submit(ask, client)
        until(lambda: count_large(client) == 1)
        os.kill(worker, signal.SIGKILL)
        answer = large.result()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert ask(client).status_code == 200  # by the replica
    assert start_worker(client) != worker
    assert ask(client).status_code == 200


def test_more_large_requests_than_the_limit_are_refused_with_429(project):
    with run_endpoint(project.with_values(max_batches=1)) as client, ThreadPoolExecutor(1) as thread:
        with suspend(start_worker(client)):
            large = thread.submit(ask, client)
            until(lambda: count_large(client) == 1)
            refused = ask(client)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert ask(client, INSTANCE).status_code == 200
        assert large.result().status_code == 200
        assert 'headrace_predict_answers_total{status="429"} 1' in client.get("/metrics").text


def test_the_limit_holds_while_the_process_starts(project, monkeypatch):
    is_open, predict = threading.Event(), Servable.predict
    monkeypatch.setattr(Servable, "predict", lambda *arguments: is_open.wait(60) and predict(*arguments))
    with run_endpoint(project.with_values(max_batches=1)) as client, ThreadPoolExecutor(1) as thread:
        large = thread.submit(ask, client)  # answered by the replica
        until(lambda: count_large(client) == 1)
        refused = ask(client)
        is_open.set()
        assert (refused.status_code, large.result().status_code) == (429, 200)


def test_while_many_large_requests_wait_they_are_not_copied_to_shadows_and_counted(client, project):
    released = put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == released.id)
    worker = start_worker(client)  # by a first request, which the replica answers
    with ThreadPoolExecutor(6) as threads, suspend(worker):
        waiting = [threads.submit(ask, client) for _ in range(6)]
        until(lambda: count_large(client) == 6)
        os.kill(worker, signal.SIGCONT)
        assert [answer.result().status_code for answer in waiting] == [200] * 6
    logged = []

    def count_copies():
        logged.extend(ship_predictions(project)[len(logged) :])
        return sum(prediction.shadow for prediction in logged)

    until(lambda: count_copies() == (1 + 4) * COUNT)
    assert sum(not prediction.shadow for prediction in logged) == (1 + 6) * COUNT
    assert "headrace_shed_shadows_total 2" in client.get("/metrics").text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent ended")
def test_the_process_of_a_killed_replica_ends_while_it_works():
    """It works on its first frame: a pickle that sleeps."""
    script = (
        "import pickle, time\nfrom headrace.serving.lane import Lane\n"
        "class Sleep:\n    def __reduce__(self): return time.sleep, (600,)\n"
        "lane = Lane('headrace.serving.as_of.worker', pickle.dumps(Sleep()), work='sleeps', longest=600.0)\n"
        "print(lane._start().pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as replica:
        worker = int(replica.stdout.readline())
        until(lambda: os.getpriority(os.PRIO_PROCESS, worker) >= 10)  # it has begun
        mark = mark_of(worker)
        replica.kill()
    until(lambda: not is_alive(mark))


def test_the_process_ends_with_the_replica(project):
    with run_endpoint(project) as client:
        worker = start_worker(client)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert len(ship_predictions(project)) == COUNT


def test_a_version_that_refuses_missing_features_refuses_them_in_a_large_request(project, boosters):
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_release(project, Arm(3))
    with run_endpoint(project) as client:
        by_replica = ask(client)
        start_worker(client)
        answer = ask(client)
    assert answer.status_code == 422
    assert answer.json() == by_replica.json()
    assert len(answer.json()["error"]["instances"]) == COUNT - 2


def test_only_the_replica_writes_down_the_releases_in_force(project):
    for keeps_releases in (False, True):
        models = Models(project, keeps_releases=keeps_releases)
        assert models.released
        assert find_kept_releases(project).exists() is keeps_releases
        models.close()
