"""The collector over HTTP: what it accepts, what it refuses, and that no request is appended twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import httpx
import pytest
from msgspec import Meta, Struct

from headrace import log as logs
from headrace.declare.event import contract_of, event
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import HttpServer, serve
from headrace.kernel.errors import Unavailable
from headrace.log import Log


@event(
    topic="clicks", time="at", key="user", identity=["user", "at"], dedup_within="1d", coerce=True, partitions=3
)
class Click(Struct):
    at: datetime
    user: int
    kind: Literal["view", "buy"]
    price: Annotated[float, Meta(gt=0)] = 1.0


CLICK = contract_of(Click)
assert CLICK is not None
JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def click(user: object = 1, **more: object) -> dict[str, Any]:
    return {"at": "2024-05-01T10:00:00Z", "user": user, "kind": "view", **more}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    opened = logs.open(f"sqlite://{tmp_path / 'log'}")
    yield opened
    opened.close()


@pytest.fixture
def server(log: Log, tmp_path: Path) -> Iterator[HttpServer]:
    app = Collector({"clicks": CLICK}, log, tmp_path)
    with serve(GuardMiddleware(app, "127.0.0.1", max_body=2_000_000), "127.0.0.1", 0) as running:
        yield running


def post(server: HttpServer, content: bytes, headers: dict[str, str] = JSON, query: str = "") -> httpx.Response:
    return httpx.post(f"{server.url}/events/clicks{query}", content=content, headers=headers, timeout=30)


def events_on_log(log: Log) -> dict[tuple[int, int], bytes]:
    """Every event on the log, by its (partition, offset)."""
    batch = log.read("clicks", dict.fromkeys(range(log.partitions("clicks")), 0), 100_000)
    return {(int(p), int(o)): v for p, o, v in zip(batch.partitions, batch.offsets, batch.values, strict=True)}


def test_a_topic_in_another_format_than_json_is_a_415(log: Log, tmp_path: Path) -> None:
    assert CLICK is not None
    contracts = {"clicks": CLICK, "other": attrs.evolve(CLICK, topic="other", format="avro")}
    with serve(GuardMiddleware(Collector(contracts, log, tmp_path), "127.0.0.1"), "127.0.0.1", 0) as server:
        answer = httpx.post(f"{server.url}/events/other", content=b"{}", headers=JSON, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "format")
    assert "avro" in answer.json()["error"]["message"]


def test_one_event_is_on_the_log_unchanged_before_the_answer(server: HttpServer, log: Log) -> None:
    raw = b'{"at": "2024-05-01T10:00:00Z",  "user":"7", "kind":"buy", "extra": 1}'
    answer = post(server, raw)

    assert answer.status_code == 202
    [[partition, offset]] = answer.json()["positions"]
    assert events_on_log(log) == {(partition, offset): raw}


def test_an_array_and_ndjson_keep_the_order_of_their_events(server: HttpServer, log: Log) -> None:
    events = [json.dumps(click(user)).encode() for user in range(20)]
    array = post(server, b" [" + b" ,\n".join(events) + b"]").json()
    lines = post(server, b"\r\n".join(events) + b"\n\n", NDJSON).json()

    on_log = events_on_log(log)
    for answer in (array, lines):
        assert answer["accepted"] == 20
        assert [json.loads(on_log[p, o]) for p, o in answer["positions"]] == [json.loads(e) for e in events]
    assert len({p for p, _ in array["positions"]}) > 1


def test_events_with_equal_keys_go_to_one_partition_however_the_key_is_spelled(server: HttpServer) -> None:
    events = [click(user) for user in (12, "12", 12, "12")]
    answer = post(server, json.dumps(events).encode()).json()

    assert len({p for p, _ in answer["positions"]}) == 1


def test_one_bad_event_refuses_the_request_and_names_each_bad_event_and_its_reason(
    server: HttpServer, log: Log
) -> None:
    events = [click(), click(price=-100), click(kind="steal"), {"at": "2024-05-01T10:00:00Z", "user": 2}]
    answer = post(server, json.dumps(events).encode())

    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["refused"]) == ("refused", 3)
    assert [(e["index"], e["code"], e["field"]) for e in error["events"]] == [
        (1, "out_of_range", "price"),
        (2, "unknown_value", "kind"),
        (3, "missing", "kind"),
    ]
    assert events_on_log(log) == {}


def test_partial_accepts_the_good_events_and_reports_the_others(server: HttpServer, log: Log) -> None:
    content = json.dumps(click(1)).encode() + b"\nnonsense\n\xff\xfe\n" + json.dumps(click(2)).encode()
    answer = post(server, content, NDJSON, "?partial=accept")

    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (2, 2)
    assert [e["index"] for e in body["events"]] == [1, 2]
    assert len(events_on_log(log)) == 2
    assert post(server, b"nonsense", NDJSON, "?partial=accept").status_code == 422


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "empty"),
        (b"[]", 400, "empty"),
        (b"  \n ", 400, "empty"),
        (b"[1, 2", 400, "not_json"),
        (b"[" * 100_000, 400, None),
        (b'[{"user": "\xff"}]', None, None),
        (b"{", 422, "refused"),
        (b"null", 422, "refused"),
        (b'{"a":' * 50_000, 422, "refused"),
        (b'"\xff\xfe"', 422, "refused"),
        (b"\x00\x01", 422, "refused"),
        (b'{"x": "' + b"y" * 1_500_000 + b'"}', 413, "too_large"),
        (b"[" + b"1," * 1_100_000 + b"1]", 413, "too_large"),
    ],
)
def test_hostile_bodies_are_answered_and_append_nothing(
    server: HttpServer, log: Log, content: bytes, status: int | None, code: str | None
) -> None:
    answer = post(server, content)

    assert 400 <= answer.status_code < 500
    if status is not None:
        assert answer.status_code == status
    if code is not None:
        assert answer.json()["error"]["code"] == code
    assert events_on_log(log) == {}
    assert post(server, json.dumps(click()).encode()).status_code == 202


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Encoding": "gzip"}, "content_encoding"),
        ({"Content-Type": "application/x-ndjson; charset=utf-16"}, "charset"),
        ({"Content-Type": "application/cloudevents+json"}, "content_type"),
    ],
)
def test_a_body_that_is_not_plain_utf8_json_is_a_415(
    server: HttpServer, log: Log, headers: dict[str, str], code: str
) -> None:
    answer = post(server, json.dumps(click()).encode(), {**JSON, **headers})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, code)
    assert events_on_log(log) == {}


def test_unknown_topics_methods_queries_and_content_types_are_refused(server: HttpServer) -> None:
    good = json.dumps(click()).encode()

    assert httpx.post(f"{server.url}/events/other", content=good, headers=JSON).status_code == 404
    assert (
        httpx.post(f"{server.url}/events/headrace.predictions", content=good, headers=JSON).status_code == 404
    )
    assert httpx.post(f"{server.url}/events/clicks/1", content=good, headers=JSON).status_code == 404
    assert httpx.post(f"{server.url}/events/..%2Fclicks", content=good, headers=JSON).status_code == 404
    refused = httpx.get(f"{server.url}/events/clicks")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert post(server, good, query="?partial=maybe").status_code == 400
    assert post(server, good, query="?x=1").status_code == 400
    assert post(server, good, {"Content-Type": "text/csv"}).status_code == 415
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_concurrent_clients_lose_and_duplicate_nothing(server: HttpServer, log: Log) -> None:
    with httpx.Client(limits=httpx.Limits(max_connections=16)) as client, ThreadPoolExecutor(16) as pool:

        def post_click(user: int) -> list[int]:
            answer = client.post(
                f"{server.url}/events/clicks", content=json.dumps(click(user)), headers=JSON, timeout=30
            )
            assert answer.status_code == 202
            (position,) = answer.json()["positions"]
            return list(position)

        positions = list(pool.map(post_click, range(300)))

    on_log = events_on_log(log)
    assert len(on_log) == 300
    assert [json.loads(on_log[p, o])["user"] for p, o in positions] == list(range(300))


def test_a_repeated_idempotency_key_gets_the_same_answer_and_is_appended_once(
    server: HttpServer, log: Log
) -> None:
    content = json.dumps([click(1), click(2)]).encode()
    headers = {**JSON, "Idempotency-Key": "order-1"}
    first = post(server, content, headers)
    again = post(server, content, headers)
    other = post(server, json.dumps(click(3)).encode(), headers)

    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
    assert len(events_on_log(log)) == 2


def test_concurrent_requests_with_one_idempotency_key_are_appended_once(server: HttpServer, log: Log) -> None:
    headers = {**JSON, "Idempotency-Key": "order-2"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(server, json.dumps(click()).encode(), headers).json(), range(8)))

    assert len(events_on_log(log)) == 1
    assert all(answer == answers[0] for answer in answers)


def test_a_refused_request_can_be_corrected_under_its_key(server: HttpServer) -> None:
    headers = {**JSON, "Idempotency-Key": "order-3"}

    assert post(server, json.dumps(click(kind="x")).encode(), headers).status_code == 422
    assert post(server, json.dumps(click()).encode(), headers).status_code == 202


SERVER_KILLED_IN_APPEND = """
import os, signal, sys, asyncio
sys.path.insert(0, {here!r})
from pathlib import Path
from test_collector import CLICK
from headrace import log as logs
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import serve

class KilledInAppend:
    def __init__(self, log): self._log = log
    def __getattr__(self, name): return getattr(self._log, name)
    def append(self, *args):
        if {when!r} == "after":
            self._log.append(*args)
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path({folder!r})
log = KilledInAppend(logs.open(f"sqlite://{{folder / 'log'}}"))
with serve(GuardMiddleware(Collector({{"clicks": CLICK}}, log, folder), "127.0.0.1"), "127.0.0.1", 0) as server:
    print(server.port, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_cut_off_by_kill_9_is_appended_once_after_a_retry(tmp_path: Path, when: str) -> None:
    code = SERVER_KILLED_IN_APPEND.format(here=os.path.dirname(__file__), when=when, folder=str(tmp_path))
    content = json.dumps([click(1), click(2)]).encode()
    headers = {**JSON, "Idempotency-Key": "cut off"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/events/clicks", content=content, headers=headers, timeout=30)
        assert process.wait(180) == -signal.SIGKILL

    log = logs.open(f"sqlite://{tmp_path / 'log'}")
    before = events_on_log(log)
    assert len(before) == (2 if when == "after" else 0)
    with serve(
        GuardMiddleware(Collector({"clicks": CLICK}, log, tmp_path), "127.0.0.1"), "127.0.0.1", 0
    ) as server:
        answers = [post(server, content, headers) for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert sorted(map(tuple, answers[0].json()["positions"])) == sorted(events_on_log(log))
    assert len(events_on_log(log)) == 2
    log.close()


class StallingLog:
    """A log whose append waits until it is released, and then fails if `away` is set."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.release = threading.Event()
        self.entered = threading.Event()
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *arguments: Any) -> list[tuple[int, int]]:
        self.entered.set()
        assert self.release.wait(60)
        if self.away:
            raise Unavailable("the log cannot be reached")
        return self._log.append(*arguments)


def test_too_many_waiting_events_are_a_429_with_retry_after(log: Log, tmp_path: Path) -> None:
    stalling_log = StallingLog(log)
    app = Collector({"clicks": CLICK}, stalling_log, tmp_path, most_waiting=10_000)  # type: ignore[arg-type]
    content = json.dumps([click(1)] * 100).encode()
    with serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, content)
        assert stalling_log.entered.wait(60)
        busy = post(server, content)
        stalling_log.release.set()
        assert first.result(30).status_code == 202
        assert post(server, content).status_code == 202

    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


def test_an_unavailable_log_is_a_503(log: Log, tmp_path: Path) -> None:
    stalling_log = StallingLog(log)
    stalling_log.away = True
    stalling_log.release.set()
    app = Collector({"clicks": CLICK}, stalling_log, tmp_path)  # type: ignore[arg-type]
    with serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0) as server:
        answer = post(server, json.dumps(click()).encode())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        stalling_log.away = False
        assert post(server, json.dumps(click()).encode()).status_code == 202


def test_a_client_that_disconnects_mid_request_does_not_disturb_others(server: HttpServer, log: Log) -> None:
    head = b"POST /events/clicks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n[")

    assert post(server, json.dumps(click()).encode()).status_code == 202
    assert len(events_on_log(log)) == 1


def test_idempotency_keys_older_than_a_day_are_forgotten(server: HttpServer, log: Log, tmp_path: Path) -> None:
    headers = {**JSON, "Idempotency-Key": "old"}
    post(server, json.dumps(click()).encode(), headers)
    with sqlite3.connect(tmp_path / "requests-clicks.db") as db:
        db.execute("UPDATE request SET at = at - 86400000001")
    post(server, json.dumps(click()).encode(), headers)

    assert len(events_on_log(log)) == 2


@pytest.mark.parametrize("booted", [False, True])
def test_a_clock_that_was_ahead_for_a_while_makes_no_retry_a_new_request(
    server: HttpServer, log: Log, monkeypatch: pytest.MonkeyPatch, booted: bool
) -> None:
    content, headers = json.dumps(click()).encode(), {**JSON, "Idempotency-Key": "before"}
    post(server, content, headers)
    with monkeypatch.context() as patch:
        patch.setattr("headrace.kernel.time.time_ns", lambda: time.time_ns() + 2 * 86_400 * 10**9)
        if booted:  # a machine that starts with a wrong clock
            patch.setattr("headrace.events.collector.requests.boot_id", lambda: "the next boot")
            patch.setattr("headrace.events.collector.requests.uptime_micros", lambda: 5)
        post(server, json.dumps(click(2)).encode(), {**JSON, "Idempotency-Key": "meanwhile"})
        assert post(server, content, headers).status_code == 202
    assert post(server, content, headers).status_code == 202

    assert len(events_on_log(log)) == 2
