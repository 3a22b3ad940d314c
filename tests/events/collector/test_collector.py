import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
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
    one = logs.open(f"sqlite://{tmp_path / 'log'}")
    yield one
    one.close()


@pytest.fixture
def served(log: Log, tmp_path: Path) -> Iterator[HttpServer]:
    app = Collector({"clicks": CLICK}, log, tmp_path)
    with serve(GuardMiddleware(app, "127.0.0.1", max_body=2_000_000, body_seconds=5), "127.0.0.1", 0) as one:
        yield one


def post(served: HttpServer, content: bytes, headers: dict[str, str] = JSON, query: str = "") -> httpx.Response:
    return httpx.post(f"{served.url}/events/clicks{query}", content=content, headers=headers, timeout=30)


def kept(log: Log) -> dict[tuple[int, int], bytes]:
    """Every event on the log, by its place."""
    batch = log.read("clicks", dict.fromkeys(range(log.partitions("clicks")), 0), 100_000)
    return {(int(p), int(o)): v for p, o, v in zip(batch.partitions, batch.offsets, batch.values, strict=True)}


def test_a_topic_that_is_not_json_is_not_offered(log: Log, tmp_path: Path) -> None:
    assert CLICK is not None
    contracts = {"clicks": CLICK, "other": attrs.evolve(CLICK, topic="other", format="avro")}
    with serve(GuardMiddleware(Collector(contracts, log, tmp_path), "127.0.0.1"), "127.0.0.1", 0) as one:
        answer = httpx.post(f"{one.url}/events/other", content=b"{}", headers=JSON, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "format")
    assert "avro" in answer.json()["error"]["message"]


def test_one_event_is_on_the_log_as_it_came_when_it_is_answered(served: HttpServer, log: Log) -> None:
    raw = b'{"at": "2024-05-01T10:00:00Z",  "user":"7", "kind":"buy", "extra": 1}'
    answer = post(served, raw)

    assert answer.status_code == 202
    [[partition, offset]] = answer.json()["positions"]
    assert kept(log) == {(partition, offset): raw}


def test_an_array_and_ndjson_are_many_events_in_their_order(served: HttpServer, log: Log) -> None:
    events = [json.dumps(click(user)).encode() for user in range(20)]
    array = post(served, b" [" + b" ,\n".join(events) + b"]").json()
    lines = post(served, b"\r\n".join(events) + b"\n\n", NDJSON).json()

    on_log = kept(log)
    for answer in (array, lines):
        assert answer["accepted"] == 20
        assert [json.loads(on_log[p, o]) for p, o in answer["positions"]] == [json.loads(e) for e in events]
    assert len({p for p, _ in array["positions"]}) > 1


def test_events_of_one_key_go_to_one_partition_however_the_key_is_written(served: HttpServer) -> None:
    events = [click(user) for user in (12, "12", 12, "12")]
    answer = post(served, json.dumps(events).encode()).json()

    assert len({p for p, _ in answer["positions"]}) == 1


def test_one_bad_event_refuses_the_request_and_says_which_and_why(served: HttpServer, log: Log) -> None:
    events = [click(), click(price=-100), click(kind="steal"), {"at": "2024-05-01T10:00:00Z", "user": 2}]
    answer = post(served, json.dumps(events).encode())

    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["refused"]) == ("refused", 3)
    assert [(e["index"], e["code"], e["field"]) for e in error["events"]] == [
        (1, "out_of_range", "price"), (2, "unknown_value", "kind"), (3, "missing", "kind")
    ]  # fmt: skip
    assert kept(log) == {}


def test_partial_takes_the_good_ones_and_tells_of_the_others(served: HttpServer, log: Log) -> None:
    content = json.dumps(click(1)).encode() + b"\nnonsense\n\xff\xfe\n" + json.dumps(click(2)).encode()
    answer = post(served, content, NDJSON, "?partial=accept")

    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (2, 2)
    assert [e["index"] for e in body["events"]] == [1, 2]
    assert len(kept(log)) == 2
    assert post(served, b"nonsense", NDJSON, "?partial=accept").status_code == 422


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
def test_hostile_bodies_get_an_answer_and_leave_nothing(
    served: HttpServer, log: Log, content: bytes, status: int | None, code: str | None
) -> None:
    answer = post(served, content)

    assert 400 <= answer.status_code < 500
    if status is not None:
        assert answer.status_code == status
    if code is not None:
        assert answer.json()["error"]["code"] == code
    assert kept(log) == {}
    assert post(served, json.dumps(click()).encode()).status_code == 202


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Encoding": "gzip"}, "content_encoding"),
        ({"Content-Type": "application/x-ndjson; charset=utf-16"}, "charset"),
        ({"Content-Type": "application/cloudevents+json"}, "content_type"),
    ],
)
def test_a_body_that_is_not_plain_utf8_json_is_a_415(
    served: HttpServer, log: Log, headers: dict[str, str], code: str
) -> None:
    answer = post(served, json.dumps(click()).encode(), {**JSON, **headers})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, code)
    assert kept(log) == {}


def test_what_is_no_topic_no_post_and_no_known_query(served: HttpServer) -> None:
    good = json.dumps(click()).encode()

    assert httpx.post(f"{served.url}/events/other", content=good, headers=JSON).status_code == 404
    assert (
        httpx.post(f"{served.url}/events/headrace.predictions", content=good, headers=JSON).status_code == 404
    )
    assert httpx.post(f"{served.url}/events/clicks/1", content=good, headers=JSON).status_code == 404
    assert httpx.post(f"{served.url}/events/..%2Fclicks", content=good, headers=JSON).status_code == 404
    refused = httpx.get(f"{served.url}/events/clicks")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert post(served, good, query="?partial=maybe").status_code == 400
    assert post(served, good, query="?x=1").status_code == 400
    assert post(served, good, {"Content-Type": "text/csv"}).status_code == 415
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok"}


def test_many_clients_at_once_lose_and_double_nothing(served: HttpServer, log: Log) -> None:
    with httpx.Client(limits=httpx.Limits(max_connections=16)) as client, ThreadPoolExecutor(16) as pool:

        def one(user: int) -> list[int]:
            answer = client.post(
                f"{served.url}/events/clicks", content=json.dumps(click(user)), headers=JSON, timeout=30
            )
            assert answer.status_code == 202
            (place,) = answer.json()["positions"]
            return list(place)

        places = list(pool.map(one, range(300)))

    on_log = kept(log)
    assert len(on_log) == 300
    assert [json.loads(on_log[p, o])["user"] for p, o in places] == list(range(300))


def test_the_same_key_is_answered_the_same_and_appended_once(served: HttpServer, log: Log) -> None:
    content = json.dumps([click(1), click(2)]).encode()
    headers = {**JSON, "Idempotency-Key": "order-1"}
    first = post(served, content, headers)
    again = post(served, content, headers)
    other = post(served, json.dumps(click(3)).encode(), headers)

    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert (other.status_code, other.json()["error"]["code"]) == (422, "key_reused")
    assert len(kept(log)) == 2


def test_the_same_key_at_once_is_appended_once(served: HttpServer, log: Log) -> None:
    headers = {**JSON, "Idempotency-Key": "order-2"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(served, json.dumps(click()).encode(), headers).json(), range(8)))

    assert len(kept(log)) == 1
    assert all(answer == answers[0] for answer in answers)


def test_a_refused_request_may_be_sent_again_under_its_key(served: HttpServer) -> None:
    headers = {**JSON, "Idempotency-Key": "order-3"}

    assert post(served, json.dumps(click(kind="x")).encode(), headers).status_code == 422
    assert post(served, json.dumps(click()).encode(), headers).status_code == 202


KILLED = """
import os, signal, sys, asyncio
sys.path.insert(0, {here!r})
from pathlib import Path
from test_collector import CLICK
from headrace import log as logs
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import serve

class Dying:
    def __init__(self, log): self._log = log
    def __getattr__(self, name): return getattr(self._log, name)
    def append(self, *args):
        if {when!r} == "after":
            self._log.append(*args)
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path({folder!r})
log = Dying(logs.open(f"sqlite://{{folder / 'log'}}"))
with serve(GuardMiddleware(Collector({{"clicks": CLICK}}, log, folder), "127.0.0.1"), "127.0.0.1", 0) as one:
    print(one.port, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_cut_off_by_kill_9_is_appended_once_when_it_comes_again(tmp_path: Path, when: str) -> None:
    code = KILLED.format(here=os.path.dirname(__file__), when=when, folder=str(tmp_path))
    content = json.dumps([click(1), click(2)]).encode()
    headers = {**JSON, "Idempotency-Key": "cut off"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with pytest.raises(httpx.TransportError):
            httpx.post(f"http://127.0.0.1:{port}/events/clicks", content=content, headers=headers, timeout=30)
        assert process.wait(30) == -signal.SIGKILL

    log = logs.open(f"sqlite://{tmp_path / 'log'}")
    before = kept(log)
    assert len(before) == (2 if when == "after" else 0)
    with serve(
        GuardMiddleware(Collector({"clicks": CLICK}, log, tmp_path), "127.0.0.1"), "127.0.0.1", 0
    ) as one:
        answers = [post(one, content, headers) for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert sorted(map(tuple, answers[0].json()["positions"])) == sorted(kept(log))
    assert len(kept(log)) == 2
    log.close()


class Stuck:
    """A log that waits, or is away, when it is told to."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.go_on = threading.Event()
        self.entered = threading.Event()
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *given: Any) -> list[tuple[int, int]]:
        self.entered.set()
        assert self.go_on.wait(30)
        if self.away:
            raise Unavailable("the log cannot be reached")
        return self._log.append(*given)


def test_too_much_waiting_is_a_429_that_says_when_to_come_again(log: Log, tmp_path: Path) -> None:
    stuck = Stuck(log)
    app = Collector({"clicks": CLICK}, stuck, tmp_path, most_waiting=10_000)  # type: ignore[arg-type]
    content = json.dumps([click(1)] * 100).encode()
    with serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0) as one, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, one, content)
        assert stuck.entered.wait(30)
        busy = post(one, content)
        stuck.go_on.set()
        assert first.result(30).status_code == 202
        assert post(one, content).status_code == 202

    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


def test_a_log_that_is_away_is_a_503(log: Log, tmp_path: Path) -> None:
    stuck = Stuck(log)
    stuck.away = True
    stuck.go_on.set()
    app = Collector({"clicks": CLICK}, stuck, tmp_path)  # type: ignore[arg-type]
    with serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0) as one:
        answer = post(one, json.dumps(click()).encode())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        stuck.away = False
        assert post(one, json.dumps(click()).encode()).status_code == 202


def test_a_client_that_leaves_in_the_midst_does_no_harm(served: HttpServer, log: Log) -> None:
    head = b"POST /events/clicks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((served.host, served.port)) as one:
        one.sendall(head + b"Content-Length: 100\r\n\r\n[")

    assert post(served, json.dumps(click()).encode()).status_code == 202
    assert len(kept(log)) == 1


def test_keys_older_than_a_day_are_forgotten(served: HttpServer, log: Log, tmp_path: Path) -> None:
    headers = {**JSON, "Idempotency-Key": "old"}
    post(served, json.dumps(click()).encode(), headers)
    with sqlite3.connect(tmp_path / "requests-clicks.db") as db:
        db.execute("UPDATE request SET at = at - 86400000001")
    post(served, json.dumps(click()).encode(), headers)

    assert len(kept(log)) == 2
