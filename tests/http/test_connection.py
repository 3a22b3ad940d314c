"""Slow, idle and hostile clients over real sockets: the server still answers everyone else."""

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
    """Answers the length of the body; at /wait after `finish` is set, at /large with 16 MiB."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.waiting = 0
        self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        content = (await receive())["body"]
        try:
            if scope["path"] == "/wait":
                self.waiting += 1
                await asyncio.to_thread(self.finish.wait, 60)
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
def server(app: App) -> Iterator[HttpServer]:
    with serve(GuardMiddleware(app, "127.0.0.1", max_requests=5), "127.0.0.1", 0) as server:
        yield server
        app.finish.set()


@contextlib.contextmanager
def connect_clients(server: HttpServer, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Connects clients, each of which sends these bytes."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((server.host, server.port), timeout=60))
            client.sendall(sent)
            clients.append(client)
        yield clients


def send_requests(server: HttpServer, count: int = 20) -> list[int]:
    """Sends valid requests, each on its own connection. Returns the statuses."""
    return [
        httpx.post(server.url, content=b"[1,2]", headers=JSON, timeout=60).status_code for _ in range(count)
    ]


def read_all(client: socket.socket) -> bytes:
    """Reads until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


def read_response(client: socket.socket) -> bytes:
    response = b""
    while b"}" not in response:
        part = client.recv(65536)
        assert part, response
        response += part
    return response


def possible_connections(wanted: int) -> int:
    """So many connections, or as many as this process can hold both ends of."""
    return min(wanted, (raise_file_limit() - 500) // 2)


def test_a_thousand_idle_connections_block_no_other_client(server: HttpServer) -> None:
    with connect_clients(server, possible_connections(1_000), WHOLE) as clients:
        for client in clients:
            assert read_response(client).startswith(b"HTTP/1.1 200 ")
        assert send_requests(server) == [200] * 20
        clients[0].sendall(WHOLE)  # an idle connection can still be used
        assert read_response(clients[0]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", WHOLE[:-2], HEAD + b"[1,"], ids=["nothing", "line", "head", "body"]
)
def test_thousands_of_incomplete_requests_block_no_other_client(server: HttpServer, sent: bytes) -> None:
    with connect_clients(server, possible_connections(4_200), sent):
        assert send_requests(server) == [200] * 20


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", HEAD + b"[1,", WHOLE], ids=["nothing", "line", "body", "idle"]
)
def test_beyond_the_limit_the_longest_waiting_connection_is_closed(app: App, sent: bytes) -> None:
    wait = WHOLE.replace(b"/ ", b"/wait ", 1)
    with (
        serve(GuardMiddleware(app, "127.0.0.1"), "127.0.0.1", 0, max_connections=20) as server,
        connect_clients(server, 1, wait) as (busy,),
    ):
        until(lambda: app.waiting == 1)
        with connect_clients(server, 100, sent) as clients:
            assert send_requests(server) == [200] * 20
            for client in clients[:80]:
                read_all(client)  # they were closed at once, before any time limit
            app.finish.set()
            assert read_response(busy).startswith(b"HTTP/1.1 200 ")


def test_the_limit_of_requests_does_not_count_connections(server: HttpServer, app: App) -> None:
    with ThreadPoolExecutor(5) as threads:
        in_progress = [threads.submit(httpx.get, f"{server.url}/wait", timeout=60) for _ in range(5)]
        until(lambda: app.waiting == 5)
        busy = httpx.get(server.url, timeout=60)
        app.finish.set()
        assert [future.result().status_code for future in in_progress] == [200] * 5
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    assert busy.headers["retry-after"] == "1"
    assert send_requests(server) == [200] * 20


def test_an_idle_connection_is_closed(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 0.2)
    with connect_clients(server, 1, WHOLE) as (client,):
        assert read_all(client).endswith(b"}")


def test_a_request_after_a_pause_has_the_whole_time_limit(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit of an idle connection ends with the first byte of a request, that of its head begins."""
    monkeypatch.setattr(connection, "_IDLE_SECONDS", 1_000.0)
    with connect_clients(server, 1, WHOLE) as (client,):
        read_response(client)
        (open_connection,) = server._server.server_state.connections
        assert isinstance(open_connection, Connection)
        until(lambda: seconds_left(open_connection) > 900)
        client.sendall(WHOLE[:10])
        until(lambda: 0 < seconds_left(open_connection) <= 10)
        client.sendall(WHOLE[10:])
        assert read_response(client).startswith(b"HTTP/1.1 200 ")
        until(lambda: seconds_left(open_connection) > 900)


def seconds_left(client: Connection) -> float:
    """Until the server closes the connection."""
    return 0.0 if client._timer is None else client._timer.when() - client.loop.time()


@pytest.mark.parametrize("nothing", [b"\r\n", b"\n"])
def test_empty_lines_hold_no_connection_open(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch, nothing: bytes
) -> None:
    with connect_clients(server, 1, WHOLE) as (client,):
        read_response(client)
        monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.3)
        client.sendall(nothing)
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
    with connect_clients(server, 1, nothing) as (client,):
        assert b"HTTP/1.1 408 " in read_all(client)


@pytest.mark.parametrize("trailer", [b"a: " + 1_000 * b"b" + b"\r\n", b"b" * 1_000], ids=["many", "one"])
@pytest.mark.parametrize("begin", [b"2\r\n[]\r\n0\r\na: ", b"2\r\n[]\r\n2;a="], ids=["trailers", "extension"])
def test_trailers_without_end_are_refused(server: HttpServer, begin: bytes, trailer: bytes) -> None:
    head = HEAD.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked")
    with connect_clients(server, 1, head + begin) as (client,), contextlib.suppress(ConnectionError):
        for _ in range(100_000):
            client.sendall(trailer)
        pytest.fail("100 MB were read")
    assert send_requests(server, 1) == [200]


@pytest.mark.parametrize("length", [b"Content-Length: 900000", b"Transfer-Encoding: chunked"])
def test_after_an_early_response_the_rest_of_the_body_holds_no_connection_open(app: App, length: bytes) -> None:
    sent = HEAD.replace(b"localhost", b"evil.example").replace(b"Content-Length: 9", length) + b"5\r\n["
    with (
        serve(GuardMiddleware(app, "127.0.0.1", body_seconds=0.2), "127.0.0.1", 0) as server,
        connect_clients(server, 1, sent) as (client,),
    ):
        assert read_all(client).startswith(b"HTTP/1.1 421 ")


def test_a_client_that_reads_no_response_is_disconnected(
    server: HttpServer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_WRITE_SECONDS", 0.5)
    with connect_clients(server, 5, WHOLE.replace(b"/ ", b"/large ", 1)):
        until(lambda: app.ended == 5)
        assert send_requests(server) == [200] * 20


def test_a_client_that_reads_slowly_gets_the_whole_response(server: HttpServer, app: App) -> None:
    with connect_clients(server, 1, LAST.replace(b"/ ", b"/large ", 1)) as (client,):
        until(lambda: app.waiting == 1)
        response = read_all(client)
    assert response.count(b"x" * 1024) == 16 << 10


def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    second = HEAD.replace(b"POST / ", b"POST /second ") + b"[1,2,3,4]"
    with connect_clients(server, 1, WHOLE + second + b"\r\n" + LAST) as (client,):
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
        (UPGRADE, 200),  # an upgrade may be ignored: the request itself is answered
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
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_unusual_requests_get_a_json_response(server: HttpServer, sent: bytes, status: int) -> None:
    with connect_clients(server, 1, sent) as (client,):
        response = read_response(client)
        head, _, content = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), response
        assert b"application/json" in head
        assert json.loads(content).keys() <= {"error", "got"}
    assert send_requests(server, 1) == [200]


def test_data_after_an_ignored_upgrade_does_no_harm(server: HttpServer) -> None:
    with connect_clients(server, 1, UPGRADE) as (client,):
        read_response(client)
        client.sendall(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58")  # a frame
        read_all(client)
    assert send_requests(server, 1) == [200]


@pytest.mark.parametrize(
    "wish",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        b"Upgrade: TLS/1.2, x\r\nUpgrade: y\r\nConnection: keep-alive, Upgrade\r\n",
    ],
    ids=["h2c", "websocket", "two"],
)
@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_request_for_an_upgrade_is_answered_with_its_body_and_the_next_one_too(
    server: HttpServer, wish: bytes, size: int
) -> None:
    asked = HEAD.replace(b"Host", wish + b"Host")
    chunked = asked.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked")
    chunks = b"3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    sent = asked + b"[1,2,3,4]" + chunked + chunks + WHOLE.replace(b"Host", wish + b"Host") + LAST
    with connect_clients(server, 1, b"") as (client,):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(sent), size):
            client.sendall(sent[begin : begin + size])
        answers = read_answers(client)
    assert answers == [(200, {"got": 9}), (200, {"got": 5}), (200, {"got": 0}), (200, {"got": 0})]


def read_answers(client: socket.socket) -> list[tuple[int, dict[str, object]]]:
    """The status and the content of each response until the server closes the connection."""
    parts = read_all(client).split(b"HTTP/1.1 ")[1:]
    return [(int(part[:3]), json.loads(part.partition(b"\r\n\r\n")[2])) for part in parts]


@pytest.mark.parametrize(
    "junk",
    [
        b"\x00\x01\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked") + b"2\r\n[]\r\nzz\r\n",
    ],
    ids=["bytes", "connect", "chunk"],
)
def test_complete_requests_have_their_answers_before_what_follows_is_refused(
    server: HttpServer, app: App, junk: bytes
) -> None:
    wait = HEAD.replace(b"/ ", b"/wait ", 1) + b"[1,2,3,4]"
    with connect_clients(server, 1, wait + WHOLE + junk) as (client,):
        until(lambda: app.waiting == 1)
        app.finish.set()
        *answers, (last, content) = read_answers(client)
    assert answers == [(200, {"got": 9}), (200, {"got": 0})]
    assert (last, content.keys()) == (400, {"error"})
    assert send_requests(server, 1) == [200]


@pytest.mark.parametrize(
    ("rest", "last"),
    [(b"", None), (WHOLE[:9], None), (HEAD + b"[1,", 400), (b"\x00\r\n\r\n", 400)],
    ids=["nothing", "head", "body", "junk"],
)
def test_a_client_that_has_closed_its_half_of_the_connection_has_its_answers(
    server: HttpServer, app: App, rest: bytes, last: int | None
) -> None:
    wait = HEAD.replace(b"/ ", b"/wait ", 1) + b"[1,2,3,4]"
    with connect_clients(server, 1, wait + WHOLE + rest) as (client,):
        until(lambda: app.waiting == 1)
        client.shutdown(socket.SHUT_WR)
        assert send_requests(server, 3) == [200] * 3
        app.finish.set()
        answers = read_answers(client)
    assert answers[:2] == [(200, {"got": 9}), (200, {"got": 0})]
    assert [status for status, _ in answers[2:]] == ([] if last is None else [last])


@pytest.mark.parametrize(
    "sent", [b"", WHOLE[:9], HEAD + b"[1,", WHOLE], ids=["nothing", "head", "body", "idle"]
)
def test_a_client_that_closes_its_half_while_nothing_is_asked_is_disconnected(
    server: HttpServer, sent: bytes
) -> None:
    with connect_clients(server, 1, sent) as (client,):
        if sent == WHOLE:
            read_response(client)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
        until(lambda: not server._server.server_state.connections)


def test_after_the_last_request_junk_has_no_answer(server: HttpServer) -> None:
    with connect_clients(server, 1, LAST + b"\x00\r\n\r\n") as (client,):
        assert read_answers(client) == [(200, {"got": 0})]


def test_a_websocket_of_another_server_is_closed() -> None:
    sent: list[object] = []

    async def ask() -> None:
        async def send(message: object) -> None:
            sent.append(message)

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        middleware: Callable[..., object] = GuardMiddleware(App(), "127.0.0.1")
        await middleware({"type": "websocket", "path": "/", "headers": []}, receive, send)  # type: ignore[misc]

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
def test_a_body_must_be_uncompressed_utf8(
    server: HttpServer, headers: dict[str, str], code: str | None
) -> None:
    response = httpx.post(server.url, content=b"[]", headers={**JSON, **headers})
    assert response.status_code == (415 if code else 200)
    assert code is None or response.json()["error"]["code"] == code


def test_head_is_answered_as_get_without_a_body(server: HttpServer) -> None:
    with httpx.Client(base_url=server.url) as client:
        response = client.head("/")
        assert (response.status_code, response.content, response.headers["content-length"]) == (200, b"", "10")
        assert client.get("/").json() == {"got": 0}


@pytest.mark.parametrize(
    "codings",
    [b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"chunked, gzip", b"chunked, chunked", b"gzip"],
)
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_transfer_coding_that_is_not_undone_is_refused(
    server: HttpServer, app: App, method: bytes, codings: bytes
) -> None:
    head = HEAD.replace(b"POST", method).replace(b"Content-Length: 9", b"Transfer-Encoding: " + codings)
    with connect_clients(server, 1, head + b"2\r\n[]\r\n0\r\n\r\n") as (client,):
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    assert app.ended == 0
