"""Hostile requests, from seeds: each answer of 200 is the offline prediction, and none blames the server."""

from __future__ import annotations

import json
import random
import socket
import sys
from collections import Counter
from contextlib import closing, suppress
from itertools import pairwise
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import psutil
import pytest
from tests.contract.supervised import SupervisedDeployment
from tests.serving.hostile import PROTOCOLS, make_request
from tests.until import until

from headrace import log
from headrace.serving.prediction import TOPIC, Prediction

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

SEED = 17
REFUSALS = {400, 404, 413, 415, 422}
SIZES = {30: 0, 60: 10_000, 90: 10_001}
"""Turn of each thousand → how many instances its first request has."""
TRICKLE = 8  # pieces of a request that is sent slowly, one a turn
GROWTH = 48 << 20  # bytes that the memory of a replica may grow by after its first fifth of the requests
HEADS = (b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: 5\r\nContent-Length: 6")
HEADS += (b"Content-Length: " + b"9" * 30, b"Transfer-Encoding: chunked\r\n\r\nzz")


@pytest.fixture(autouse=True)
def patient_supervisor(monkeypatch):
    """No replica hangs here: a heartbeat that is late means that the machine is busy."""
    monkeypatch.setattr("headrace.kernel.children._DELAYED", 120.0)
    monkeypatch.setattr("headrace.kernel.children._SILENT", 120.0)


class Pipe:
    """One connection, on which requests are written in pieces, several before the first answer is read."""

    def __init__(self, url):
        self._address = urlsplit(url).hostname, urlsplit(url).port
        self._socket, self._file = None, None

    def connect(self):
        self.close()
        self._socket = socket.create_connection(self._address, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def close(self):
        if self._socket is not None:
            self._file.close()
            self._socket.close()
            self._socket = None

    @property
    def is_open(self):
        return self._socket is not None

    def send(self, content, pieces=1):
        if self._socket is None:
            self.connect()
        size = -(-len(content) // pieces)
        with suppress(ConnectionError):  # the server has refused the first request, and closed
            for first in range(0, len(content), size):
                self._socket.sendall(content[first : first + size])

    def read(self):
        """Status and body of an answer; None if the connection was reset before it arrived."""
        try:
            line = self._file.readline()
        except ConnectionError:
            line = b""
        if not line:
            self.close()
            return None
        status = int(line.split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        body = self._file.read(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return status, body


def has_wrong_headers(request):
    """Whether the server answers without reading the body, and closes the connection."""
    kind = request.headers.get("Content-Type", "application/json")
    return kind != "application/json" or "Content-Encoding" in request.headers


def encode_request(request, length=None):
    """The bytes of a request.

    Args:
        length: the length that its head states; None: that of its body.
    """
    length = len(request.body) if length is None else length
    lines = [f"POST {request.path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + request.body


@pytest.fixture
def predict(boosters):
    """The offline prediction of a row of features."""
    import xgboost

    booster, known = xgboost.Booster(model_file=bytearray(boosters[1])), {}

    def predict_row(row):
        if row not in known:
            numbers = np.array([[np.nan if value is None else value for value in row]], np.float64)
            numbers[~(np.abs(numbers) <= np.finfo(np.float32).max)] = np.nan
            known[row] = float(booster.inplace_predict(numbers.astype(np.float32))[0])
        return known[row]

    return predict_row


class HostileClient:
    """Sends hostile requests of one protocol to an endpoint and checks each answer.

    Args:
        url: the address of the endpoint.
        name: the protocol.
        predict: the offline prediction of a row of features.

    Attributes:
        statuses: status → how many answers had it.
        values: how many predictions were answered.
        ids: their ids, if the protocol has them.
    """

    def __init__(self, url, name, predict):
        self._protocol, self._predict = PROTOCOLS[name], predict
        self._rng = random.Random(f"{SEED} {name}")
        self._pipe, self._odd, self._slow = Pipe(url), Pipe(url), Pipe(url)
        self._slow_request, self._left = None, []
        self.statuses, self.values, self.ids = Counter(), 0, []

    def close(self):
        for pipe in (self._pipe, self._odd, self._slow):
            pipe.close()

    def take_turns(self, first, last):
        for turn in range(first, last):
            self._trickle()
            kind = self._rng.random()
            if kind < 0.02:
                self._cut_off()
            elif kind < 0.04:
                self._send_wrong_length()
            else:
                self._send_pipelined(SIZES.get(turn % 1_000))

    def _send_pipelined(self, count):
        """Writes one request or three, before it reads the first answer."""
        rng = self._rng
        requests = [make_request(self._protocol, rng, count)]
        requests += [make_request(self._protocol, rng) for _ in range(rng.choice((0, 0, 0, 2)))]
        self._pipe.send(b"".join(map(encode_request, requests)), pieces=rng.choice((1, 1, 3)))
        for request in requests:
            answer = self._pipe.read()
            if answer is None:
                assert any(has_wrong_headers(request) for request in requests), requests
                break
            self._check(request, *answer)
            if not self._pipe.is_open:  # the answers to the requests after it are lost with the connection
                break

    def _trickle(self):
        """Sends the next piece of a request that is slow; its answer is read after the last one."""
        if not self._left:
            self._slow_request = make_request(self._protocol, self._rng)
            content = encode_request(self._slow_request)
            ends = [len(content) * number // TRICKLE for number in range(TRICKLE + 1)]
            self._left = [content[first:last] for first, last in pairwise(ends)]
        self._slow.send(self._left.pop(0))
        if self._left:
            return
        answer = self._slow.read()
        if answer is None:
            assert has_wrong_headers(self._slow_request), self._slow_request
        else:
            self._check(self._slow_request, *answer)

    def _cut_off(self):
        """Sends a part of a request and closes: the server must not wait for the rest, nor predict."""
        content = encode_request(make_request(self._protocol, self._rng))
        self._odd.send(content[: -self._rng.randrange(1, 20)])
        self._odd.close()

    def _send_wrong_length(self):
        """Sends a body that is longer than its head says, or a head that says no length."""
        rng = self._rng
        request = make_request(self._protocol, rng, 1)
        if rng.random() < 0.5:
            self._odd.send(encode_request(request, len(request.body) - rng.randrange(1, 6)))
        else:
            start = f"POST {request.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            self._odd.send(start.encode() + rng.choice(HEADS) + b"\r\n\r\n" + request.body)
        answer = self._odd.read()
        assert answer is None or answer[0] in REFUSALS, (request, answer)
        self._odd.close()

    def _check(self, request, status, body):
        self.statuses[status] += 1
        if status != 200:
            assert status in REFUSALS, (request, status, body)
            assert not request.is_valid, (request, body)
            assert json.loads(body)
            return
        rows, content = self._protocol.expected_rows(request), json.loads(body)
        assert rows is not None, request
        assert self._protocol.values(content) == [self._predict(row) for row in rows], request
        self.values += len(rows)
        self.ids += self._protocol.ids(content)


def read_logged(settings):
    """The predictions on the log that were answered."""
    topics, decode = log.open(settings.log.url), msgspec.json.Decoder(Prediction).decode
    with closing(topics):
        offset, predictions = 0, []
        while values := topics.read(TOPIC, {0: offset}, 10_000).values:
            offset += len(values)
            predictions += [prediction for value in values if (prediction := decode(value)).error is None]
    return predictions


def test_hostile_requests_are_refused_or_answered_rightly(project, predict):
    check_protocols(project, predict, list(PROTOCOLS), 200)


@pytest.mark.soak
@pytest.mark.parametrize("name", PROTOCOLS)
def test_50_000_hostile_requests_are_refused_or_answered_rightly(project, predict, name):
    check_protocols(project, predict, [name], 50_000)


def count_files(replica):
    """The open files but those of the online store, which each thread that predicts opens once."""
    return replica.num_fds() - sum("online.db" in file.path for file in replica.open_files())


def check_protocols(project, predict, names, count):
    """Sends so many requests of each protocol, one protocol after the other, to one endpoint."""
    running = SupervisedDeployment(project)
    try:
        (replica,) = (psutil.Process(pid) for pid in running.deployment.processes.values())
        clients = [check_protocol(running, replica, predict, name, count) for name in names]
        assert httpx.get(f"{running.deployment.url}/healthz").status_code == 200
        assert running.reports == []
    finally:
        running.stop()
    logged = [prediction.id for prediction in read_logged(project)]
    assert len(set(logged)) == len(logged) == sum(client.values for client in clients)
    assert set().union(*(client.ids for client in clients)) <= set(logged)


def check_protocol(running, replica, predict, name, count):
    """Sends requests of one protocol. Returns the client that sent them."""
    with closing(HostileClient(running.deployment.url, name, predict)) as client:
        client.take_turns(0, count // 5)
        memory, files = replica.memory_info().rss, count_files(replica)
        client.take_turns(count // 5, count)
        growth = replica.memory_info().rss - memory
        until(lambda: count_files(replica) <= files + 2)  # of closed connections that it has yet to see
    sys.stdout.write(
        f"{name}: {sum(client.statuses.values()):,} answers {dict(sorted(client.statuses.items()))},"
        f" {client.values:,} predictions, memory {memory >> 20} {growth / 2**20:+.1f} MiB, {files} files\n"
    )
    assert client.statuses[200] > count / 20, name
    assert client.statuses[422] > count / 20, name
    assert growth < GROWTH, name
    assert len(client.ids) in (0, client.values), name
    return client
