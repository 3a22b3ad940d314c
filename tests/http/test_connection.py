"""Clients that are slow, idle or hostile, over real sockets: a door stays open for everyone else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.until import until

from headrace.http import connection
from headrace.http.asgi import Receive, Scope, Send
from headrace.http.connection import Connection, raise_file_limit
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import send_body
from headrace.http.serve import HttpServer, serve

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = WHOLE.replace(b"Host", b"Connection: close\r\nHost")
JSON = {"Content-Type": "application/json"}


class App:
    """Answers how long the body is; at /wait once it is let, at /large with 16 MiB."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.waiting = 0
        self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        content = (await receive())["body"]
        try:
            if scope["path"] == "/wait":
                self.waiting += 1
                await asyncio.to_thread(self.go_on.wait, 60)
            if scope["path"] == "/large":
                self.waiting += 1
                await _send_large(send)
            else:
                await send_body(send, 200, b'{"got": %d}' % len(content))
        finally:
            self.ended += 1


async def _send_large(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(16):
        await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def served(app: App) -> Iterator[HttpServer]:
    with serve(GuardMiddleware(app, "127.0.0.1", max_requests=5), "127.0.0.1", 0) as one:
        yield one
        app.go_on.set()


@contextlib.contextmanager
def connected(served: HttpServer, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many clients, each of which has sent this and no more."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((served.host, served.port), timeout=60))
            client.sendall(sent)
            clients.append(client)
        yield clients


def answers(served: HttpServer, count: int = 20) -> list[int]:
    """The statuses of good requests, each on a connection of its own."""
    return [
        httpx.post(served.url, content=b"[1,2]", headers=JSON, timeout=60).status_code for _ in range(count)
    ]


def read_all(client: socket.socket) -> bytes:
    """What comes until the other end closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


def read_answer(client: socket.socket) -> bytes:
    got = b""
    while b"}" not in got:
        part = client.recv(65536)
        assert part, got
        got += part
    return got


def many(wanted: int) -> int:
    """So many connections, or as many as this process may hold both ends of."""
    return min(wanted, (raise_file_limit() - 500) // 2)


def test_a_thousand_idle_connections_keep_nobody_out(served: HttpServer) -> None:
    with connected(served, many(1_000), WHOLE) as clients:
        for client in clients:
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
        assert answers(served) == [200] * 20
        clients[0].sendall(WHOLE)  # each of them may ask again
        assert read_answer(clients[0]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", WHOLE[:-2], HEAD + b"[1,"], ids=["nothing", "line", "head", "body"]
)
def test_thousands_that_do_not_end_what_they_began_keep_nobody_out(served: HttpServer, sent: bytes) -> None:
    with connected(served, many(4_200), sent):
        assert answers(served) == [200] * 20


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"[1,", WHOLE], ids=["nothing", "line", "body", "idle"]
)
def test_where_no_more_connections_may_be_the_longest_wait_ends(app: App, sent: bytes) -> None:
    wait = WHOLE.replace(b"/ ", b"/wait ", 1)
    with (
        serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0, max_connections=20) as one,
        connected(one, 1, wait) as (busy,),
    ):
        until(lambda: app.waiting == 1)
        with connected(one, 100, sent) as clients:
            assert answers(one) == [200] * 20
            for client in clients[:80]:
                read_all(client)  # they were closed: this ends before any limit of time does it
            app.go_on.set()
            assert read_answer(busy).startswith(b"HTTP/1.1 200 ")


def test_requests_are_counted_and_not_connections(served: HttpServer, app: App) -> None:
    with ThreadPoolExecutor(5) as threads:
        taken = [threads.submit(httpx.get, f"{served.url}/wait", timeout=60) for _ in range(5)]
        until(lambda: app.waiting == 5)
        busy = httpx.get(served.url, timeout=60)
        app.go_on.set()
        assert [one.result().status_code for one in taken] == [200] * 5
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    assert busy.headers["retry-after"] == "1"
    assert answers(served) == [200] * 20


def test_an_idle_connection_is_closed(served: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 0.2)
    with connected(served, 1, WHOLE) as (client,):
        assert read_all(client).endswith(b"}")


def test_a_request_after_a_pause_has_its_own_time(served: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the next request ends with its first byte; its head then has the time that a head has."""
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 1_000.0)
    with connected(served, 1, WHOLE) as (client,):
        read_answer(client)
        (one,) = served._server.server_state.connections
        assert isinstance(one, Connection)
        until(lambda: seconds_left(one) > 900)
        client.sendall(WHOLE[:10])
        until(lambda: 0 < seconds_left(one) <= 10)
        client.sendall(WHOLE[10:])
        assert read_answer(client).startswith(b"HTTP/1.1 200 ")
        until(lambda: seconds_left(one) > 900)


def seconds_left(one: Connection) -> float:
    """Until a connection is given up."""
    return 0.0 if one._timer is None else one._timer.when() - one.loop.time()


@pytest.mark.parametrize("nothing", [b"\r\n", b"\n"])
def test_empty_lines_hold_no_connection_open(
    served: HttpServer, monkeypatch: pytest.MonkeyPatch, nothing: bytes
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)
    with connected(served, 1, WHOLE) as (client,):
        read_answer(client)
        client.sendall(nothing)
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
    with connected(served, 1, nothing) as (client,):
        assert b"HTTP/1.1 408 " in read_all(client)


def test_the_rest_of_a_body_that_was_answered_early_holds_no_connection_open(served: HttpServer) -> None:
    sent = HEAD.replace(b"localhost", b"evil.example").replace(b"Length: 9", b"Length: 900000") + b"["
    with connected(served, 1, sent) as (client,):
        assert read_all(client).startswith(b"HTTP/1.1 421 ")


def test_who_takes_no_answer_is_let_go(served: HttpServer, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_WRITE_SECONDS", 0.5)
    with connected(served, 5, WHOLE.replace(b"/ ", b"/large ", 1)):
        until(lambda: app.ended == 5)
        assert answers(served) == [200] * 20


def test_who_takes_an_answer_slowly_gets_it(served: HttpServer, app: App) -> None:
    with connected(served, 1, LAST.replace(b"/ ", b"/large ", 1)) as (client,):
        until(lambda: app.waiting == 1)
        got = read_all(client)
    assert got.count(b"x" * 1024) == 16 << 10


def test_requests_that_come_together_are_answered_in_order(served: HttpServer) -> None:
    second = HEAD.replace(b"POST / ", b"POST /second ") + b"[1,2,3,4]"
    with connected(served, 1, WHOLE + second + b"\r\n" + LAST) as (client,):
        parts = read_all(client).split(b"HTTP/1.1 200 OK")
    contents = [part.partition(b"\r\n\r\n")[2] for part in parts[1:]]
    assert [json.loads(content) for content in contents] == [{"got": 0}, {"got": 9}, {"got": 0}]


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (UPGRADE, 200),  # an upgrade may be ignored: it is answered as the request that it is
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (UPGRADE.replace(b"websocket", b"h2c"), 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (HEAD.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: %s\r\n" % (b"y" * 70_000), 431),
    ],
    ids=lambda given: given[:12].decode("latin-1") if isinstance(given, bytes) else None,
)  # fmt: skip
def test_odd_requests_get_an_answer_as_json(served: HttpServer, sent: bytes, status: int) -> None:
    with connected(served, 1, sent) as (client,):
        got = read_answer(client)
        head, _, content = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), got
        assert b"application/json" in head
        assert json.loads(content).keys() <= {"error", "got"}
    assert answers(served, 1) == [200]


def test_what_comes_after_an_upgrade_that_was_ignored_harms_nobody(served: HttpServer) -> None:
    with connected(served, 1, UPGRADE) as (client,):
        read_answer(client)
        client.sendall(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")  # a frame
        read_all(client)
    assert answers(served, 1) == [200]


def test_another_server_that_offers_a_websocket_is_told_no() -> None:
    sent: list[object] = []

    async def ask() -> None:
        async def send(message: object) -> None:
            sent.append(message)

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        door: Callable[..., object] = GuardMiddleware(App(), "127.0.0.1")
        await door({"type": "websocket", "path": "/", "headers": []}, receive, send)  # type: ignore[misc]

    asyncio.run(ask())
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Encoding": "gzip"}, "content_encoding"),
        ({"Content-Encoding": "identity"}, None),
        ({"Content-Type": "application/json; charset=utf-16"}, "charset"),
        ({"Content-Type": "application/json;charset=latin-1"}, "charset"),
        ({"Content-Type": 'Application/JSON ; charset="UTF-8"'}, None),
        ({"Content-Type": "application/json; profile=x"}, None),
    ],
)
def test_a_body_that_is_not_plain_utf8_is_a_415(
    served: HttpServer, headers: dict[str, str], code: str | None
) -> None:
    answer = httpx.post(served.url, content=b"[]", headers={**JSON, **headers})
    assert answer.status_code == (415 if code else 200)
    assert code is None or answer.json()["error"]["code"] == code


def test_head_is_answered_as_get_without_a_body(served: HttpServer) -> None:
    with httpx.Client(base_url=served.url) as client:
        answer = client.head("/")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "10")
        assert client.get("/").json() == {"got": 0}
