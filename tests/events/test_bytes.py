"""A refused event is stored byte for byte in every format, and its replay has the same bytes."""

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

INVALID = [
    b'{"at": 1,  "user": 12345678901234567890.1234567890, "user": 1e2}\r',
    b'{"user": "", "price": 0.30000000000000001, "note": "\\u00e9\\ud800"}',
    b'\xef\xbb\xbf{"user": 1}',
    b"\xff\xfe\x00 torn",
    b"",
]


@pytest.mark.parametrize("format", ["json", "connect", "debezium"])
def test_refused_bytes_are_stored_and_replayed_unchanged(
    format: str, contract: Contract, events_log: Log, lake: Lake
) -> None:
    if format == "debezium":
        changes_contract = contract_of(Customer)
        assert changes_contract is not None
        row = {"id": 1, "name": "__debezium_unavailable_value", "balance": "x"}
        contract = changes_contract
        invalid = [*INVALID[:-1], change("u", 1, row)]  # the debezium format skips an empty value
    else:
        contract = attrs.evolve(contract, format=format)
        payload = click(1, price=-1, note="").replace(b"-1", b"-1.10")
        invalid = [*INVALID, payload, b'{"schema": {"type": "struct"},  "payload": ' + payload + b"}"]
    events_log.create(contract.topic)
    events_log.append(contract.topic, invalid)
    for _ in range(2):
        Ingest(contract, events_log, lake).run(until_end=True, stop=threading.Event())
        refused = find_refused(contract, lake, QuarantineSelection())
        assert sorted(event.raw for event in refused) == sorted(invalid)
        assert replay(contract, lake, events_log, QuarantineSelection()).events == len(invalid)
    log_partitions = dict.fromkeys(range(events_log.partitions(contract.topic)), 0)
    values = events_log.read(contract.topic, log_partitions, 1_000).values
    assert sorted(values) == sorted(invalid * 3)
