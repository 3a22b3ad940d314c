"""A refused event is kept to the byte, whichever way it took, and its replay is the same bytes again."""

from __future__ import annotations

import threading

import attrs
import pytest
from tests.events.clicks import click
from tests.events.customers import Customer, change

from headrace.declare.event import Contract, contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.events.quarantine import QuarantineSelection, find_refused, replay
from headrace.lake import Lake
from headrace.log import Log

BROKEN = [
    b'{"at": 1,  "user": 12345678901234567890.1234567890, "user": 1e2}\r',
    b'{"user": "", "price": 0.30000000000000001, "note": "\\u00e9\\ud800"}',
    b'\xef\xbb\xbf{"user": 1}',
    b"\xff\xfe\x00 torn",
    b"",
]


@pytest.mark.parametrize("format", ["json", "connect", "debezium"])
def test_refused_bytes_are_kept_and_replayed_as_they_came(
    format: str, contract: Contract, events_log: Log, lake: Lake
) -> None:
    if format == "debezium":
        declared = contract_of(Customer)
        assert declared is not None
        row = {"id": 1, "name": "__debezium_unavailable_value", "balance": "x"}
        contract, broken = declared, [*BROKEN[:-1], change("u", 1, row)]  # an empty value is no event there
    else:
        contract = attrs.evolve(contract, format=format)
        payload = click(1, price=-1, note="").replace(b"-1", b"-1.10")
        broken = [*BROKEN, payload, b'{"schema": {"type": "struct"},  "payload": ' + payload + b"}"]
    events_log.create(contract.topic)
    events_log.append(contract.topic, broken)
    for _ in range(2):
        Ingest(contract, events_log, lake).run(until_end=True, stop=threading.Event())
        assert sorted(event.raw for event in find_refused(contract, lake, QuarantineSelection())) == sorted(
            broken
        )
        assert replay(contract, lake, events_log, QuarantineSelection()).events == len(broken)
    log_partitions = dict.fromkeys(range(events_log.partitions(contract.topic)), 0)
    values = events_log.read(contract.topic, log_partitions, 1_000).values
    assert sorted(values) == sorted(broken * 3)
