"""The collector and events near the size limit of a topic: it refuses only those that are too large."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from services.kafka import Broker
from tests.events.clicks import Click, click
from tests.log.topics import read_all, set_largest_batch

from headrace import log as logs
from headrace.declare.event import Contract, contract_of
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import HttpServer, serve
from headrace.kernel.ids import new_id
from headrace.log import Log

JSON = {"Content-Type": "application/json"}
PARTIAL = "?partial=accept"


@pytest.fixture
def contract() -> Contract:
    declared = contract_of(Click)
    assert declared is not None
    return attrs.evolve(declared, topic=f"clicks-{new_id()}", partitions=2)


@pytest.fixture(params=["sqlite", "kafka"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    kafka = request.param == "kafka"
    opened = logs.open(request.getfixturevalue("broker").url if kafka else f"sqlite://{tmp_path}/log")
    yield opened
    opened.close()


@pytest.fixture
def kafka(broker: Broker) -> Iterator[Log]:
    opened = logs.open(broker.url)
    yield opened
    opened.close()


def start_collector(contract: Contract, log: Log, folder: Path) -> HttpServer:
    app = Collector({contract.topic: contract}, log, folder)
    return serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0)


def post(
    server: HttpServer, topic: str, content: bytes, query: str = "", headers: dict[str, str] | None = None
) -> httpx.Response:
    address = f"{server.url}/events/{topic}{query}"
    return httpx.post(address, content=content, headers={**JSON, **(headers or {})}, timeout=60)


def click_of_size(number: int, size: int) -> bytes:
    """A valid click of `size` bytes."""
    return click(number, note="x" * (size - len(click(number, note=""))))


def values_in_order(log: Log, contract: Contract) -> list[bytes]:
    return sorted(read_all(log, contract.topic).values())


def test_the_largest_event_is_accepted_and_one_byte_more_is_a_413(
    contract: Contract, log: Log, tmp_path: Path
) -> None:
    with start_collector(contract, log, tmp_path) as server:
        largest = min(1 << 20, log.largest(contract.topic)) - len(b"7")  # its key is 7
        accepted = post(server, contract.topic, click_of_size(7, largest))
        refused = post(server, contract.topic, click_of_size(7, largest + 1))
        edge = post(server, contract.topic, click_of_size(7, 1 << 20))
    assert accepted.status_code == 202
    for answer in (refused, edge):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (413, "too_large")
        assert [(event["index"], event["code"]) for event in error["events"]] == [(0, "too_large")]
        assert "retry-after" not in answer.headers
    assert values_in_order(log, contract) == [click_of_size(7, largest)]


def test_a_too_large_event_among_others_is_reported_by_its_index(
    contract: Contract, log: Log, tmp_path: Path
) -> None:
    events = [click(1), click_of_size(2, 1_100_000), click(3, price=-1), click(4)]
    body = b"[" + b",".join(events) + b"]"
    with start_collector(contract, log, tmp_path) as server:
        whole = post(server, contract.topic, body)
        assert values_in_order(log, contract) == []
        without_bad = post(server, contract.topic, b"[" + b",".join(events[:2]) + b"]")
        partial = post(server, contract.topic, body, PARTIAL)
        only = post(server, contract.topic, events[1], PARTIAL)
    codes = [(1, "too_large"), (2, "out_of_range")]
    assert whole.status_code == 422
    assert [(event["index"], event["code"]) for event in whole.json()["error"]["events"]] == codes
    assert (without_bad.status_code, without_bad.json()["error"]["refused"]) == (413, 1)
    assert partial.status_code == 202
    assert (partial.json()["accepted"], partial.json()["refused"]) == (2, 2)
    assert [(event["index"], event["code"]) for event in partial.json()["events"]] == codes
    assert only.status_code == 413
    assert values_in_order(log, contract) == [click(1), click(4)]


def post_concurrently(server: HttpServer, topic: str, bodies: list[bytes], **more: Any) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(lambda body: post(server, topic, body, **more), bodies))


def test_small_events_posted_beside_a_too_large_one_are_accepted(
    contract: Contract, log: Log, tmp_path: Path
) -> None:
    bodies = [click(n) if n % 4 else click_of_size(n, 1_048_580) for n in range(24)]
    with start_collector(contract, log, tmp_path) as server:
        answers = post_concurrently(server, contract.topic, bodies)
    assert [answer.status_code for answer in answers] == [202 if n % 4 else 413 for n in range(24)]
    assert values_in_order(log, contract) == sorted(click(n) for n in range(24) if n % 4)


def test_a_limit_lowered_while_the_collector_runs_is_obeyed(
    contract: Contract, kafka: Log, broker: Broker, tmp_path: Path
) -> None:
    keyed = {"Idempotency-Key": "again"}
    with start_collector(contract, kafka, tmp_path) as server:
        assert post(server, contract.topic, click(0)).status_code == 202
        set_largest_batch(broker.url, contract.topic, 20_000)
        # Random text: compression cannot bring it below the limit.
        large = click(99, note=os.urandom(30_000).hex())
        bodies = [click(n) if n % 4 else large for n in range(1, 13)]
        answers = post_concurrently(server, contract.topic, bodies)
        mixed = b"[" + click(20) + b"," + large + b"]"
        first = post(server, contract.topic, mixed, PARTIAL, keyed)
        again = post(server, contract.topic, mixed, PARTIAL, keyed)
    assert [answer.status_code for answer in answers] == [202 if n % 4 else 413 for n in range(1, 13)]
    assert first.status_code == again.status_code == 202
    assert json.loads(first.content) == json.loads(again.content)
    assert len(values_in_order(kafka, contract)) == 1 + 9 + 1
