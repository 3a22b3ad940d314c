"""Forwarding on a real broker: what a forwarder raises whose log partition another takes over."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest
from services.kafka import Broker

from headrace.kernel.errors import Conflict
from headrace.kernel.ids import new_id
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.writer import KafkaRecord


def test_forwarder_that_is_fenced_within_a_transaction_gets_a_conflict(broker: Broker) -> None:
    name = new_id()
    log = KafkaLog(broker.url.removeprefix("kafka://"))
    log.create(f"{name}.good")
    mine, theirs = (log.forwarder(name, 1, [f"{name}.good"]) for _ in range(2))
    record: KafkaRecord = (f"{name}.good", 0, b"value", None, None)

    def until_refused() -> Iterator[KafkaRecord]:
        yield record
        theirs.take_over(0)
        deadline = monotonic() + 180
        while monotonic() < deadline:  # the broker reports it some records later
            yield record

    assert mine.take_over(0) is None
    with pytest.raises(Conflict, match="another process forwards"):
        mine.commit(0, until_refused(), b"mine")
    theirs.commit(0, [record], b"theirs")
    assert theirs.take_over(0) == b"theirs"
    mine.close()
    theirs.close()
    log.close()
