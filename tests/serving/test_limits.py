"""Limits of a replica: requests in progress, the spool, and the size of a body. Probes are always answered."""

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import pytest
from tests.serving.running import INSTANCE, run_endpoint, ship_predictions
from tests.until import until

from headrace.config.settings import load_settings
from headrace.flows.project.status import status
from headrace.serving.endpoint import MAX_BODY
from headrace.serving.servable import Servable
from headrace.workspace import Workspace

PROBES = ("/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready", "/metrics", "/models")
PROTOCOLS = (
    "/predict/purchase",
    "/v1/models/purchase:predict",
    "/v2/models/purchase/infer",
    "/invocations",
    "/purchase/invocations",
    "/v1/features",
)
LARGE = {"instances": [INSTANCE] * 200}  # answered in a thread


@pytest.fixture
def gate(monkeypatch):
    """While it is not set, the model does not answer batches."""
    is_open, predict = threading.Event(), Servable.predict

    def wait_and_predict(self, matrix, *indexes):
        assert len(matrix) == 1 or is_open.wait(60)
        return predict(self, matrix, *indexes)

    monkeypatch.setattr(Servable, "predict", wait_and_predict)
    yield is_open
    is_open.set()


def test_more_requests_than_the_limit_are_refused_with_429_and_probes_answered(project, gate):
    with run_endpoint(project.with_values(max_requests=2)) as client, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(client.post, "/predict/purchase", json=LARGE, timeout=60) for _ in range(2)]
        until(lambda: client.endpoint._handler._requests.count == 2)
        for path in PROTOCOLS:
            refused = client.post(path, json=INSTANCE)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1"), path
        assert [client.get(path).status_code for path in PROBES] == [200] * len(PROBES)
        gate.set()
        assert [answer.result().status_code for answer in waiting] == [200, 200]
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 200
        refusals = len(PROTOCOLS) - 1
        assert f'headrace_predict_answers_total{{status="429"}} {refusals}' in client.get("/metrics").text
    assert len(ship_predictions(project)) == 2 * 200 + 1


def test_metrics_answer_at_once_while_every_thread_for_predictions_waits(project, gate):
    """As they do while the online store is frozen."""
    count = 33  # asyncio has 32 threads at most
    with run_endpoint(project) as client, ThreadPoolExecutor(count) as threads:
        post = partial(client.post, "/predict/purchase", json=LARGE, timeout=60)
        waiting = [threads.submit(post) for _ in range(count)]
        until(lambda: client.endpoint._handler._requests.count == count)
        assert "headrace_spool_bytes 0" in client.get("/metrics", timeout=30).text
        gate.set()
        assert [answer.result().status_code for answer in waiting] == [200] * count


def test_a_burst_beyond_the_limit_is_refused_and_the_rest_answered(project):
    """Requests that arrive in one turn of the event loop count before the first is answered."""
    with run_endpoint(project.with_values(max_requests=4)) as client:
        address = urlsplit(str(client.base_url))
        body = b'{"user_id": 1, "product_id": 7, "price": 3.5}'
        request = b"POST /predict/purchase HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        request += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        statuses = []

        def send_burst():
            clients = [socket.create_connection((address.hostname, address.port)) for _ in range(64)]
            for connection in clients:
                connection.sendall(request)
            for connection in clients:
                with connection, connection.makefile("rb") as stream:
                    statuses.append(int(stream.readline().split()[1]))
            return statuses.count(429)

        until(send_burst)
        assert set(statuses) == {200, 429}
    assert len(ship_predictions(project)) == statuses.count(200)


def test_a_full_spool_refuses_before_a_prediction_is_made_and_is_reported(project, monkeypatch):
    monkeypatch.setattr("headrace.serving.spool._MEASURE", 0.0)
    settings = project.with_values(max_spool=1)
    with run_endpoint(settings) as client:
        until(lambda: client.post("/predict/purchase", json=LARGE).status_code == 503)
        refused = client.post("/predict/purchase", json=INSTANCE)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "spool" in refused.json()["error"]["message"]
        metrics = client.get("/metrics").text
        assert "headrace_full_spools_total 2" in metrics
        size = next(line for line in metrics.splitlines() if line.startswith("headrace_spool_bytes "))
        assert 1 << 20 <= int(size.split()[1]) < 2 << 20
        with Workspace(settings) as workspace:
            (problem,) = status(workspace, load_features=False).problems
        assert "wait for the log" in problem
        answered = client.get("/metrics").text
        assert 'status="200"' in answered
        shipped = len(ship_predictions(settings))
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 200
    assert shipped % 200 == 0  # whole requests
    assert len(ship_predictions(settings)) == shipped + 1


@pytest.mark.parametrize("path", PROTOCOLS)
@pytest.mark.parametrize("has_length", [True, False])
def test_a_body_that_is_too_large_gets_413_before_the_connection_is_closed(project, path, has_length):
    """The client sends all of the body before it reads, as stock clients do."""
    with run_endpoint(project) as client:
        address = urlsplit(str(client.base_url))
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        body = b'{"x": "' + b"y" * (MAX_BODY + (1 << 20)) + b'"}'
        chunks = body if has_length else (body[n : n + 65_536] for n in range(0, len(body), 65_536))
        for _ in range(3):
            connection.request("POST", path, chunks, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Content-Type")) == (413, "application/json")
            assert answer.read()
            connection.close()
            chunks = body
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 200


def test_the_limits_are_settings(project):
    path = project.root / "headrace.toml"
    path.write_text(
        path.read_text() + "max_requests = 7\nmax_spool = 5\nmax_batches = 3\nmax_batch_size = 16\n"
    )
    serving = load_settings(project.root).serving
    assert (serving.max_requests, serving.spool_limit, serving.max_batches) == (7, 5 << 20, 3)
    assert serving.max_batch_size == 16
