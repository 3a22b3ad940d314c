import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

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
            raise CallError("there is no topic 'x'")
        case "/broken":
            raise RuntimeError("the password is 1234")
        case "/field":
            raise HttpError(422, "bad", "It is bad.", field="price", more={"rows": [1]})
    message = await receive()
    await send_body(send, 200, json.dumps({"got": len(message["body"])}).encode())


@pytest.fixture
def served() -> Iterator[HttpServer]:
    with serve(GuardMiddleware(echo, "127.0.0.1", max_body=1000, body_seconds=1.0), "127.0.0.1", 0) as one:
        yield one


def talk(served: HttpServer, sent: bytes, timeout: float = 20.0) -> bytes:
    """What the server answers to raw bytes until it closes the connection."""
    with socket.create_connection((served.host, served.port), timeout=timeout) as one:
        one.sendall(sent)
        got = b""
        while part := one.recv(65536):
            got += part
    return got


def test_a_request_is_answered(served: HttpServer) -> None:
    answer = httpx.post(served.url, content=b"[1,2]", headers=JSON)

    assert (answer.status_code, answer.json()) == (200, {"got": 5})
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""]
)
def test_a_foreign_host_name_is_refused_on_loopback(served: HttpServer, host: str) -> None:
    answer = httpx.get(served.url, headers={"Host": host})

    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host")


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:8101", "LOCALHOST"])
def test_this_machines_names_are_taken(served: HttpServer, host: str) -> None:
    assert httpx.get(served.url, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_what_is_no_json_is_refused(served: HttpServer, kind: str | None) -> None:
    answer = httpx.post(served.url, content=b"{}", headers={} if kind is None else {"Content-Type": kind})

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type")


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_its_bytes(served: HttpServer) -> None:
    assert httpx.post(served.url, content=b"x" * 1001, headers=JSON).status_code == 413
    # Without a Content-Length httpx sends chunks.
    assert httpx.post(served.url, content=(b"x" * 100 for _ in range(20)), headers=JSON).status_code == 413


def test_errors_of_the_house_become_answers(served: HttpServer) -> None:
    missing = httpx.get(f"{served.url}/missing")
    field = httpx.get(f"{served.url}/field")

    assert (missing.status_code, missing.json()) == (
        404, {"error": {"code": "not_found", "message": "there is no topic 'x'"}}
    )  # fmt: skip
    assert field.json()["error"] == {"code": "bad", "message": "It is bad.", "field": "price", "rows": [1]}


def test_an_unforeseen_error_tells_nothing(served: HttpServer) -> None:
    answer = httpx.get(f"{served.url}/broken")

    assert answer.status_code == 500
    assert "1234" not in answer.text


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
def test_a_request_that_is_no_http_is_a_400(served: HttpServer, head: bytes) -> None:
    answer = talk(served, head)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"bad_request"' in answer


def test_a_body_that_does_not_arrive_is_a_408(served: HttpServer) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["

    assert talk(served, head).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_does_not_arrive_is_a_408(served: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 0.5)

    assert talk(served, b"GET / HTTP/1.1\r\nHost: loc").startswith(b"HTTP/1.1 408 ")
    assert talk(served, b"").startswith(b"HTTP/1.1 408 ")
    # The second request on a kept connection is no exception.
    assert b"HTTP/1.1 408 " in talk(served, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT")


def test_endless_headers_are_a_431(served: HttpServer) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(
        b"X-%d: %s\r\n" % (n, b"y" * 1000) for n in range(80)
    )

    assert b"HTTP/1.1 431 " in talk(served, head)


def test_the_token_is_asked_for_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_TOKEN", TOKEN)
    with serve(GuardMiddleware(echo, "0.0.0.0"), "127.0.0.1", 0) as one:

        def status(given: str | None, path: str = "/", host: str = "shop.example") -> int:
            headers = {"Host": host, **({} if given is None else {"Authorization": given})}
            return httpx.get(one.url + path, headers=headers).status_code

        assert status(None) == 401
        assert status(f"Bearer {TOKEN}x") == 401
        assert status(f"Basic {TOKEN}") == 401
        assert status(f"Bearer {TOKEN}") == 200
        assert status(f"bearer {TOKEN}") == 200
        assert status(None, "/healthz") == 200


def test_an_open_door_without_a_token_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)

    with pytest.raises(ProjectError, match="the token is not set") as caught:
        GuardMiddleware(echo, "0.0.0.0")
    assert caught.value.where == "HEADRACE_TOKEN"
    monkeypatch.setenv("HEADRACE_TOKEN", "short")
    with pytest.raises(ProjectError, match="16"):
        GuardMiddleware(echo, "0.0.0.0")


def test_a_port_in_use_is_named_with_a_remedy(served: HttpServer) -> None:
    with pytest.raises(Unavailable, match=f"port {served.port} is in use") as caught:
        bind("127.0.0.1", served.port)
    assert caught.value.remedy is not None


def test_stopping_frees_the_port_and_lets_the_request_in_progress_end() -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            import asyncio

            begun.set()
            await asyncio.get_running_loop().run_in_executor(None, go_on.wait, 10)
            await send_body(send, 200, b"{}")

    one = serve(GuardMiddleware(slow, "127.0.0.1"), "127.0.0.1", 0)
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(httpx.get(one.url).status_code))
    client.start()
    assert begun.wait(10)
    stopper = threading.Thread(target=one.stop)
    stopper.start()
    go_on.set()
    stopper.join(20)
    client.join(20)

    assert answers == [200]
    bind(one.host, one.port).close()


def test_an_application_that_does_not_start_is_an_error() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(HeadraceError, match="did not start"):
        serve(refusing, "127.0.0.1", 0)


SIGNALLED = """
import sys
sys.path.insert(0, {here!r})
from test_serve import echo
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import serve, stop_on_signals

stop = stop_on_signals()
with serve(GuardMiddleware(echo, "127.0.0.1"), "127.0.0.1", 0) as one:
    print(one.port, flush=True)
    stop.wait()
print("clean", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_clean(number: signal.Signals) -> None:
    code = SIGNALLED.format(here=os.path.dirname(__file__))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        process.send_signal(number)
        assert process.stdout.readline() == "clean\n"
        assert process.wait(20) == 0
