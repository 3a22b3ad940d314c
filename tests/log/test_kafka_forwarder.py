"""Forwarding on a real broker: what the one is told from whom a log partition is taken."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import pytest
from services.kafka import Broker

from headrace.kernel.errors import Conflict
from headrace.kernel.ids import new_id
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.writer import Record


def test_who_is_fenced_in_the_midst_of_a_transaction_is_told_so(broker: Broker) -> None:
    name = new_id()
    log = KafkaLog(broker.url.removeprefix("kafka://"))
    log.create(f"{name}.good")
    mine, others = log.forwarder(name, 1, [f"{name}.good"]), log.forwarder(name, 1, [f"{name}.good"])
    record: Record = (f"{name}.good", 0, b"value", None, None)

    def until_refused() -> Iterator[Record]:
        yield record
        others.take(0)
        deadline = monotonic() + 60
        while monotonic() < deadline:  # the client hears of it from the broker, some records later
            yield record

    assert mine.take(0) is None
    with pytest.raises(Conflict, match="another process forwards"):
        mine.commit(0, until_refused(), b"mine")
    others.commit(0, [record], b"theirs")
    assert others.take(0) == b"theirs"
    for one in (mine, others):
        one.close()
    log.close()
