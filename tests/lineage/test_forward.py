"""Lineage events are sent to OpenLineage endpoints in order, once, whatever the endpoints answer."""

import contextlib
import json
import threading
from collections.abc import Iterator

import httpx
import pytest
from tests.servers import Endpoint
from tests.until import until

from headrace.kernel.errors import Unavailable
from headrace.kernel.run import record_with, run
from headrace.lineage import Store
from headrace.lineage.forward import Sender, endpoint, forward


@pytest.fixture
def server() -> Iterator[Endpoint]:
    endpoint_server = Endpoint(usual=201)
    yield endpoint_server
    endpoint_server.close()


def record_runs(store: Store, *jobs: str) -> None:
    with store.recorder() as recorder, record_with(recorder):
        for job in jobs:
            with run(job):
                pass


def events_at_endpoint(server: Endpoint) -> list[tuple[str, str]]:
    accepted = [json.loads(post.body) for post in server.got if post.status < 300]
    return [(event["job"]["name"], event["eventType"]) for event in accepted]


def test_events_are_sent_in_order_and_once(store: Store, server: Endpoint) -> None:
    record_runs(store, "a", "b")
    with httpx.Client() as client:
        assert Sender(store, server.url, client).send() == 4
        assert Sender(store, server.url, client).send() == 0
        record_runs(store, "c")
        assert Sender(store, server.url, client).send() == 2

    assert events_at_endpoint(server) == [(job, what) for job in "abc" for what in ("START", "COMPLETE")]
    assert {post.path for post in server.got} == {"/api/v1/lineage"}


def test_a_failing_endpoint_is_retried_and_gets_every_event(store: Store, server: Endpoint) -> None:
    record_runs(store, "a")
    server.answers = [201, 503]
    with httpx.Client() as client:
        with pytest.raises(Unavailable, match="503"):
            Sender(store, server.url, client).send()
        assert Sender(store, server.url, client).send() == 1

    assert events_at_endpoint(server) == [("a", "START"), ("a", "COMPLETE")]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_event_is_counted_and_does_not_delay_the_others(
    store: Store, server: Endpoint, status: int
) -> None:
    record_runs(store, "a")
    server.answers = [status]
    with httpx.Client() as client:
        assert Sender(store, server.url, client).send() == 2
        assert Sender(store, server.url, client).send() == 0

    assert events_at_endpoint(server) == [("a", "COMPLETE")]
    (endpoint_health,) = store.health([server.url]).endpoints
    assert (endpoint_health.waiting, endpoint_health.refused) == (0, 1)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 405, 408, 409, 415, 429, 500, 503])
def test_an_answer_that_does_not_concern_the_event_loses_none(
    store: Store, server: Endpoint, status: int
) -> None:
    record_runs(store, "a")
    server.answers = [status]
    with httpx.Client() as client:
        with pytest.raises(Unavailable, match=str(status)):
            Sender(store, server.url, client).send()
        assert Sender(store, server.url, client).send() == 2

    assert events_at_endpoint(server) == [("a", "START"), ("a", "COMPLETE")]
    assert store.health([server.url]).endpoints[0].refused == 0


def test_an_event_that_fails_alone_is_skipped_and_counted(store: Store, server: Endpoint) -> None:
    # Marquez answers 500 to an event that its database cannot store.
    record_runs(store, "a", "b")
    with httpx.Client() as client:
        sender = Sender(store, server.url, client)
        for _ in range(7):
            server.answers = [500]
            with pytest.raises(Unavailable, match="500"):
                sender.send()
        server.answers = [500, 201, 500]  # the event, the one after it, and the event for the last time
        assert sender.send() == 4

    (state,) = store.health([server.url]).endpoints
    assert (state.waiting, state.refused) == (0, 1)
    assert state.failure is None
    after = [("a", "COMPLETE"), ("b", "START"), ("b", "COMPLETE")]
    assert events_at_endpoint(server) == [after[0], *after]  # the one after it twice


def test_an_endpoint_that_fails_long_gets_every_event(store: Store, server: Endpoint) -> None:
    record_runs(store, "a")
    with httpx.Client() as client:
        sender = Sender(store, server.url, client)
        for attempt in range(12):
            server.answers = [500, 500] if attempt >= 7 else [500]
            with pytest.raises(Unavailable, match="500"):
                sender.send()
        server.answers = [500, 201, 201]  # it came back while the second event was tried
        assert sender.send() == 2

    (state,) = store.health([server.url]).endpoints
    assert (state.waiting, state.refused) == (0, 0)
    assert events_at_endpoint(server) == [("a", "COMPLETE"), ("a", "START"), ("a", "COMPLETE")]


def test_the_last_event_is_never_skipped(store: Store, server: Endpoint) -> None:
    record_runs(store, "a")
    with httpx.Client() as client:
        sender = Sender(store, server.url, client)
        for _ in range(20):
            server.answers = [201, 500] if not server.got else [500]
            with pytest.raises(Unavailable):
                sender.send()
        assert sender.send() == 1


@pytest.mark.parametrize("status", [413, 500])
def test_a_long_answer_that_shows_the_key_is_not_kept(
    store: Store, server: Endpoint, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k-5f1e77aa90")
    server.text = b'{"Authorization": "Bearer k-5f1e77aa90", "key": "k-5f1e77aa90"}' + b"\xff" * 5_000_000
    record_runs(store, "a")
    server.answers = [status]
    with httpx.Client() as client, contextlib.suppress(Unavailable):
        Sender(store, server.url, client).send()
    assert "k-5f1e77aa90" not in str(store.health([server.url]))
    store.close()
    stored = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert b"k-5f1e77aa90" not in stored
    assert len(stored) < 1_000_000


def test_the_loop_waits_for_an_endpoint_to_come_back(store: Store, server: Endpoint) -> None:
    record_runs(store, "a")
    server.answers = [500, 500]
    unreachable = "http://127.0.0.1:9"
    stop = threading.Event()
    loop = threading.Thread(
        target=forward, args=(store, [unreachable, server.url], stop), kwargs={"idle": 0.02}
    )
    loop.start()
    until(lambda: len(events_at_endpoint(server)) == 2)
    record_runs(store, "b")
    until(lambda: len(events_at_endpoint(server)) == 4)
    until(lambda: store.health([unreachable]).endpoints[0].failure is not None)
    stop.set()
    loop.join(20)

    assert not loop.is_alive()
    failing, working = store.health([unreachable, server.url]).endpoints
    assert (failing.waiting, working.waiting, working.failure) == (4, 0, None)


def test_the_key_of_the_endpoint_comes_from_the_environment(
    store: Store, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k")
    record_runs(store, "a")
    with httpx.Client() as client:
        Sender(store, server.url, client).send()

    assert server.got[-1].headers["Authorization"] == "Bearer k"


def test_an_address_with_a_path_is_unchanged() -> None:
    assert endpoint("https://lineage.example/") == "https://lineage.example/api/v1/lineage"
    assert endpoint("https://lineage.example/x/y") == "https://lineage.example/x/y"
