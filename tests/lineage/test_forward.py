import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from headrace.kernel.errors import Unavailable
from headrace.kernel.run import recorder_added, run
from headrace.lineage import Store
from headrace.lineage.forward import endpoint, forward, send


class Endpoint:
    """A lineage server that keeps what it gets and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[dict[str, object]] = []
        self.paths: set[str] = set()
        self.headers: dict[str, str] = {}
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.answers.pop(0) if outer.answers else 201
                if status < 300:
                    outer.got.append(json.loads(body))
                outer.paths.add(self.path)
                outer.headers = dict(self.headers)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Endpoint]:
    one = Endpoint()
    yield one
    one.close()


def recorded(store: Store, *jobs: str) -> None:
    with store.recorder() as recorder, recorder_added(recorder):
        for job in jobs:
            with run(job):
                pass


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(server: Endpoint) -> list[tuple[object, object]]:
    return [(e["job"]["name"], e["eventType"]) for e in server.got]  # type: ignore[index]


def test_events_are_sent_in_order_and_once(store: Store, server: Endpoint) -> None:
    recorded(store, "a", "b")
    with httpx.Client() as client:
        assert send(store, server.url, client) == 4
        assert send(store, server.url, client) == 0
        recorded(store, "c")
        assert send(store, server.url, client) == 2

    assert told(server) == [(job, what) for job in "abc" for what in ("START", "COMPLETE")]
    assert server.paths == {"/api/v1/lineage"}


def test_a_failing_endpoint_is_tried_again_and_loses_nothing(store: Store, server: Endpoint) -> None:
    recorded(store, "a")
    server.answers = [201, 503]
    with httpx.Client() as client:
        with pytest.raises(Unavailable, match="503"):
            send(store, server.url, client)
        assert send(store, server.url, client) == 1

    assert told(server) == [("a", "START"), ("a", "COMPLETE")]


def test_an_event_the_endpoint_will_never_take_does_not_hold_up_the_others(
    store: Store, server: Endpoint
) -> None:
    recorded(store, "a")
    server.answers = [422]
    with httpx.Client() as client:
        send(store, server.url, client)

    assert told(server) == [("a", "COMPLETE")]
    (sent,) = store.health([server.url]).endpoints
    assert (sent.waiting, sent.refused) == (0, 1)


def test_the_loop_waits_for_an_endpoint_to_come_back(store: Store, server: Endpoint) -> None:
    recorded(store, "a")
    server.answers = [500, 500]
    gone = "http://127.0.0.1:9"
    stop = threading.Event()
    loop = threading.Thread(target=forward, args=(store, [gone, server.url], stop), kwargs={"idle": 0.02})
    loop.start()
    until(lambda: len(server.got) == 2)
    recorded(store, "b")
    until(lambda: len(server.got) == 4)
    until(lambda: store.health([gone]).endpoints[0].failure is not None)
    stop.set()
    loop.join(20)

    assert not loop.is_alive()
    away, there = store.health([gone, server.url]).endpoints
    assert (away.waiting, there.waiting, there.failure) == (4, 0, None)


def test_the_key_of_the_endpoint_comes_from_the_environment(
    store: Store, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k")
    recorded(store, "a")
    with httpx.Client() as client:
        send(store, server.url, client)

    assert server.headers["Authorization"] == "Bearer k"


def test_an_address_with_a_path_is_left_as_it_is() -> None:
    assert endpoint("https://lineage.example/") == "https://lineage.example/api/v1/lineage"
    assert endpoint("https://lineage.example/x/y") == "https://lineage.example/x/y"
