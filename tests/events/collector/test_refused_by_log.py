"""The collector and a log that refuses a record for good: a compacted topic, and an event without a key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import httpx
from services.kafka import Broker
from tests.events.clicks import Click, click
from tests.log.topics import read_all

from headrace.declare.event import contract_of
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.http.serve import serve
from headrace.kernel.ids import new_id
from headrace.log.kafka.log import KafkaLog


def test_events_that_the_log_refuses_are_a_422_and_their_neighbours_are_accepted(
    broker: Broker, tmp_path: Path
) -> None:
    declared = contract_of(Click)
    assert declared is not None
    # The key is optional here, so some events have none.
    contract = attrs.evolve(declared, topic=f"compacted-{new_id()}", key="note", partitions=1)
    log = KafkaLog(broker.url.removeprefix("kafka://"))
    log._topics.create_compacted(contract.topic, 1)
    app = GuardMiddleware(Collector({contract.topic: contract}, log, tmp_path), "127.0.0.1")
    keyed, keyless = click(1, note="a"), click(2)
    with serve(app, "127.0.0.1", 0) as server:

        def post(body: bytes, query: str = "", key: str | None = None) -> httpx.Response:
            headers = {"Content-Type": "application/json", **({} if key is None else {"Idempotency-Key": key})}
            url = f"{server.url}/events/{contract.topic}{query}"
            return httpx.post(url, content=body, headers=headers, timeout=60)

        both = b"[" + keyed + b"," + keyless + b"]"
        for answer in (post(keyless), post(both), post(keyless, "?partial=accept")):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (422, "refused")
            assert "retry-after" not in answer.headers
            (event,) = error["events"]
            assert event["code"] == "refused_by_log"
            assert "without a key" in event["reason"]
        assert read_all(log, contract.topic) == {}

        first, again = (post(both, "?partial=accept", "once") for _ in range(2))
        assert first.status_code == again.status_code == 202
        assert first.json() == again.json()
        assert (first.json()["accepted"], first.json()["refused"]) == (1, 1)
        assert [(event["index"], event["code"]) for event in first.json()["events"]] == [(1, "refused_by_log")]

        bodies = [click(n, note=str(n)) if n % 3 else click(n) for n in range(12)]
        with ThreadPoolExecutor(len(bodies)) as threads:
            statuses = [answer.status_code for answer in threads.map(post, bodies)]
        assert statuses == [202 if n % 3 else 422 for n in range(12)]
    good = [keyed, *(body for n, body in enumerate(bodies) if n % 3)]
    assert sorted(read_all(log, contract.topic).values()) == sorted(good)
    log.close()
