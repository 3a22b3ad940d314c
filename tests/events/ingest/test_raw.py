"""Events are rewritten from the table once the log has trimmed them."""

from __future__ import annotations

import json
import threading
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl

from headrace import Struct, event
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.events.ingest.raw import read_events
from headrace.lake import Lake
from headrace.log import Log


class Place(Struct, rename="camel"):
    zip_code: int
    more: dict[str, Any] | None = None


@event(topic="sales", time="at", partitions=1)
class Sale(Struct, rename="camel"):
    at: datetime
    total: Decimal
    place: Place
    places: list[Place]
    anything: Any
    note: str | None = None


def test_a_good_event_is_rewritten_with_its_original_field_values(events_log: Log, lake: Lake) -> None:
    contract = contract_of(Sale)
    assert contract is not None
    number = "12345678901234567890.123456789012345678"
    place = f'{{"zipCode":1,"more":{{"x":{number}}}}}'
    raw = (
        f'{{"at":"2026-03-01T12:00:00Z","total":"{number}","place":{place},"places":[{place}],'
        f'"anything":[{number},"a"]}}'
    )
    events_log.create("sales")
    events_log.append("sales", [raw.encode(), b"torn", b"{}"])
    Ingest(contract, events_log, lake).run(until_end=True, stop=threading.Event())
    events_log.trim("sales", {0: 3})
    events, _ = read_events(contract, lake.table("sales"), events_log, 0, 0, 2, 10)
    rows = pl.DataFrame(events)
    assert rows["_rewritten"].to_list() == [True, False]
    rewritten, torn = rows["_raw"]
    assert torn == b"torn"
    assert json.loads(rewritten, parse_float=str) == json.loads(raw, parse_float=str)
    assert msgspec.json.decode(rewritten, type=Sale) == msgspec.json.decode(raw, type=Sale)
