"""The server and its middleware: which requests are answered, which are refused, and how it stops."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
from tests.until import until

from headrace.http import connection
from headrace.http.asgi import Receive, Scope, Send
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import HttpError, send_body
from headrace.http.serve import HttpServer, bind, serve
from headrace.kernel.errors import CallError, HeadraceError, ProjectError, Unavailable

TOKEN = "t0ken-that-is-long-enough"
JSON = {"Content-Type": "application/json"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return
    match scope["path"]:
        case "/missing":
            raise CallError("topic 'x' does not exist")
        case "/broken":
            raise RuntimeError("the password is 1234")
        case "/field":
            raise HttpError(422, "bad", "It is bad.", field="price", more={"rows": [1]})
    message = await receive()
    await send_body(send, 200, json.dumps({"got": len(message["body"])}).encode())


@pytest.fixture
def server() -> Iterator[HttpServer]:
    app = GuardMiddleware(echo, "127.0.0.1", max_body=1000)
    with serve(app, "127.0.0.1", 0) as server:
        yield server


def send_bytes(server: HttpServer, request: bytes, timeout: float = 60.0) -> bytes:
    """Sends raw bytes. Returns what the server answers until it closes the connection."""
    with socket.create_connection((server.host, server.port), timeout=timeout) as client:
        client.sendall(request)
        response = b""
        while part := client.recv(65536):
            response += part
    return response


def test_a_request_is_answered(server: HttpServer) -> None:
    response = httpx.post(server.url, content=b"[1,2]", headers=JSON)
    assert (response.status_code, response.json()) == (200, {"got": 5})
    assert "server" not in response.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""]
)
def test_a_foreign_host_name_is_refused_on_loopback(server: HttpServer, host: str) -> None:
    response = httpx.get(server.url, headers={"Host": host})

    assert (response.status_code, response.json()["error"]["code"]) == (421, "host")


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:8101", "LOCALHOST"])
def test_names_of_this_machine_are_accepted(server: HttpServer, host: str) -> None:
    assert httpx.get(server.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_a_body_that_is_not_json_is_refused(server: HttpServer, kind: str | None) -> None:
    response = httpx.post(server.url, content=b"{}", headers={} if kind is None else {"Content-Type": kind})

    assert (response.status_code, response.json()["error"]["code"]) == (415, "content_type")


def test_a_too_large_body_is_refused_by_its_header_and_by_its_bytes(server: HttpServer) -> None:
    assert httpx.post(server.url, content=b"x" * 1001, headers=JSON).status_code == 413
    # Without a Content-Length httpx sends chunks.
    assert httpx.post(server.url, content=(b"x" * 100 for _ in range(20)), headers=JSON).status_code == 413


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/echo", {}, 413),
        ("/echo", {"Content-Type": "text/plain"}, 415),
        ("/echo", {"Content-Encoding": "gzip"}, 415),
        ("/echo", {"Host": "evil.example"}, 421),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(
    path: str, headers: dict[str, str], status: int
) -> None:
    """With unread data the connection would be reset, and the response lost."""
    app = GuardMiddleware(echo, "127.0.0.1", max_body=1000, body_seconds=60.0)
    with serve(app, "127.0.0.1", 0) as server:
        for size in (2_000_000, 17 * 1024 * 1024):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            client.request("POST", path, b"x" * size, {**JSON, **headers})
            answer = client.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (status, "close")
            assert json.loads(answer.read())["error"]["code"]
            client.close()


def test_a_client_that_asks_before_it_sends_is_refused_at_once(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 100000000\r\n\r\n"
        )
        content = b""
        while part := client.recv(65_536):
            content += part
    assert content.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in content


def test_headrace_errors_become_json_responses(server: HttpServer) -> None:
    missing = httpx.get(f"{server.url}/missing")
    field = httpx.get(f"{server.url}/field")

    assert missing.status_code == 404
    assert missing.json() == {"error": {"code": "not_found", "message": "topic 'x' does not exist"}}
    assert field.json()["error"] == {"code": "bad", "message": "It is bad.", "field": "price", "rows": [1]}


def test_an_unexpected_error_reveals_nothing(server: HttpServer) -> None:
    response = httpx.get(f"{server.url}/broken")

    assert response.status_code == 500
    assert "1234" not in response.text


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x00\x01\x02 nonsense\r\n\r\n",
    ],
)
def test_invalid_http_is_answered_400(server: HttpServer, head: bytes) -> None:
    response = send_bytes(server, head)

    assert response.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_request"' in response


def test_an_incomplete_body_is_answered_408() -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["

    with serve(GuardMiddleware(echo, "127.0.0.1", body_seconds=0.5), "127.0.0.1", 0) as server:
        assert send_bytes(server, head).startswith(b"HTTP/1.1 408 ")


def test_an_incomplete_head_is_answered_408(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.5)

    assert send_bytes(server, b"GET / HTTP/1.1\r\nHost: loc").startswith(b"HTTP/1.1 408 ")
    assert send_bytes(server, b"").startswith(b"HTTP/1.1 408 ")
    # The same holds for the second request on a connection.
    assert b"HTTP/1.1 408 " in send_bytes(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")


def test_too_large_headers_are_answered_431(server: HttpServer) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
        b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(80)
    )

    assert b"HTTP/1.1 431 " in send_bytes(server, head)


def test_a_token_that_is_set_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TOKEN", TOKEN)
    with serve(GuardMiddleware(echo, "0.0.0.0"), "127.0.0.1", 0) as server:

        def status(authorization: str | None, path: str = "/", host: str = "shop.example") -> int:
            headers = {"Host": host}
            if authorization is not None:
                headers["Authorization"] = authorization
            return httpx.get(server.url + path, headers=headers).status_code

        assert status(None) == 401
        assert status(f"Bearer {TOKEN}x") == 401
        assert status(f"Basic {TOKEN}") == 401
        assert status(f"Bearer {TOKEN}") == 200
        assert status(f"bearer {TOKEN}") == 200
        assert status(None, "/healthz") == 200


def test_an_address_open_to_other_machines_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)

    with pytest.raises(ProjectError, match="the token is not set") as caught:
        GuardMiddleware(echo, "0.0.0.0")
    assert caught.value.where == "HEADRACE_TOKEN"
    monkeypatch.setenv("HEADRACE_TOKEN", "short")
    with pytest.raises(ProjectError, match="16"):
        GuardMiddleware(echo, "0.0.0.0")


def test_a_port_in_use_is_named_with_a_remedy(server: HttpServer) -> None:
    with pytest.raises(Unavailable, match=f"port {server.port} is in use") as caught:
        bind("127.0.0.1", server.port)
    assert caught.value.remedy is not None


def test_stop_waits_for_the_request_in_progress_and_closes_the_port() -> None:
    started, finish = threading.Event(), threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            started.set()
            await asyncio.get_running_loop().run_in_executor(None, finish.wait, 60)
            await send_body(send, 200, b"{}")

    bound = bind("127.0.0.1", 0)
    server = serve(GuardMiddleware(slow, "127.0.0.1"), "127.0.0.1", 0, bound=bound)
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(httpx.get(server.url).status_code))
    client.start()
    assert started.wait(60)
    stopper = threading.Thread(target=server.stop, args=(60,))
    stopper.start()
    finish.set()
    stopper.join(60)
    client.join(60)

    assert statuses == [200]
    assert bound.fileno() == -1  # closed; another process may listen on the port by now


def test_a_request_that_takes_longer_than_the_grace_of_a_stop_gets_503() -> None:
    started = threading.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            started.set()
            await asyncio.Event().wait()

    with (
        serve(GuardMiddleware(wait, "127.0.0.1"), "127.0.0.1", 0, grace=0) as server,
        ThreadPoolExecutor() as pool,
    ):
        client = pool.submit(httpx.get, server.url, timeout=60)
        assert started.wait(60)
        server.stop()
        answer = client.result(60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("1", "close")


def test_an_application_that_does_not_start_is_an_error() -> None:
    async def fail_to_start(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(HeadraceError, match="did not start"):
        serve(fail_to_start, "127.0.0.1", 0)


PROGRAM = """
import signal
import sys
import threading
import time
import traceback
sys.path.insert(0, {here!r})
from test_serve import echo
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import await_stop, serve, stop_on_signals

stop = stop_on_signals()
with serve(GuardMiddleware(echo, "127.0.0.1"), "127.0.0.1", 0) as server:
    print(server.port, flush=True)
    {then}
    await_stop(stop)
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server(number: signal.Signals) -> None:
    code = PROGRAM.format(here=os.path.dirname(__file__), then="")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        process.send_signal(number)
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(180) == 0


def test_a_signal_that_another_thread_gets_stops_the_server() -> None:
    """The thread gets it while the main thread waits: it may be resumed first after a suspension."""
    then = """
    def end():
        main = threading.main_thread().ident
        while "await_stop" not in str(traceback.format_stack(sys._current_frames()[main])):
            time.sleep(0.02)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Thread(target=end).start()"""
    code = PROGRAM.format(here=os.path.dirname(__file__), then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["stopped"], done.stderr


def test_large_bodies_that_arrive_slowly_do_not_use_up_the_memory() -> None:
    size = 100_000
    head = (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % size
    )
    app = GuardMiddleware(echo, "127.0.0.1", max_body=size)
    with serve(app, "127.0.0.1", 0) as server, contextlib.ExitStack() as stack:
        ask = partial(httpx.post, server.url, content=b" " * size, headers=JSON, timeout=60)
        clients = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=60))
            for _ in range(16)
        ]
        for client in clients:
            client.sendall(head + b" " * (size - 1))
        until(lambda: ask().status_code == 429)
        refused = ask()
        assert (refused.json()["error"]["code"], refused.headers["retry-after"]) == ("busy", "1")
        assert httpx.post(server.url, content=b"[1,2]", headers=JSON).status_code == 200
        for client in clients:
            client.sendall(b" ")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert ask().status_code == 200


def test_a_server_that_ends_tells_busy_clients_to_connect_again() -> None:
    """A client whose connection were closed without it would lose the request that it sends at this moment."""
    with serve(echo, "127.0.0.1", 0, drain=60) as server:
        client = http.client.HTTPConnection(server.host, server.port, timeout=30)
        answers = []
        for path in ("/a", "/b"):
            client.request("POST", path, b"{}", JSON)
            answers.append(client.getresponse())
            assert json.loads(answers[-1].read()) == {"got": 2}
            if path == "/a":
                stopping = threading.Thread(target=server.stop, args=(60,))
                stopping.start()
                until(lambda: not is_open(server))
        assert [answer.headers["Connection"] for answer in answers] == [None, "close"]
        stopping.join(60)  # nobody is connected any more, so it ends at once
        assert not stopping.is_alive()


def is_open(server: HttpServer) -> bool:
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
