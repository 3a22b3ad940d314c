"""Hostile requests, from seeds: each answer of 200 is the offline prediction, and none blames the server."""

from __future__ import annotations

import json
import random
import socket
import sys
from collections import Counter
from contextlib import closing, suppress
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from tests.serving.hostile import PROTOCOLS, make_request
from tests.serving.running import run_endpoint, ship_predictions

SEED = 17
REFUSALS = {400, 404, 413, 415, 422}


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
            status = int(self._file.readline().split()[1])
        except ConnectionError:
            self.close()
            return None
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


def encode_request(request, cut=0):
    lines = [f"POST {request.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    content = ("\r\n".join(lines) + "\r\n\r\n").encode() + request.body
    return content[:-cut] if cut else content


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


def ask_all(client: httpx.Client, name, count, predict):
    """Sends requests of a protocol and checks the answers. Returns the counts of statuses, and the ids."""
    protocol, rng = PROTOCOLS[name], random.Random(f"{SEED} {name}")
    statuses, ids = Counter(), []
    with closing(Pipe(str(client.base_url))) as pipe:
        for _ in range(count):
            requests = [make_request(protocol, rng) for _ in range(rng.choice((1, 1, 1, 3)))]
            if rng.random() < 0.02:  # cut off: the server must not wait for it, nor count it
                pipe.send(encode_request(requests[0], cut=rng.randrange(1, 20)))
                pipe.close()
                continue
            pipe.send(b"".join(map(encode_request, requests)), pieces=rng.choice((1, 1, 3)))
            for request in requests:
                answer = pipe.read()
                if answer is None:
                    assert any(has_wrong_headers(request) for request in requests), requests
                    break
                status, body = answer
                statuses[status] += 1
                if status != 200:
                    assert status in REFUSALS, (request, status, body)
                    assert not request.is_valid, (request, body)
                    assert json.loads(body)
                else:
                    rows, content = protocol.expected_rows(request), json.loads(body)
                    assert rows is not None, request
                    assert protocol.values(content) == [predict(row) for row in rows], request
                    ids += protocol.ids(content)
                if pipe._socket is None:  # the answers to the requests after it are lost with the connection
                    break
    return statuses, ids


@pytest.mark.parametrize("name", PROTOCOLS)
def test_hostile_requests_are_refused_or_answered_rightly(project, predict, name):
    check_protocol(project, predict, name, 200)


@pytest.mark.soak
@pytest.mark.parametrize("name", PROTOCOLS)
def test_50_000_hostile_requests_are_refused_or_answered_rightly(project, predict, name):
    check_protocol(project, predict, name, 50_000)


def check_protocol(project, predict, name, count):
    with run_endpoint(project) as client:
        statuses, ids = ask_all(client, name, count, predict)
        assert client.get("/healthz").status_code == 200
    sys.stdout.write(f"{name}: {dict(sorted(statuses.items()))}\n")
    assert statuses[200] > count / 20
    assert statuses[422] > count / 20
    logged = {prediction.id for prediction in ship_predictions(project)}
    assert len(set(ids)) == len(ids)
    assert logged.issuperset(ids)
