"""A change contract on a table of customers, and Debezium envelopes of its changes."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from headrace import Struct, changes

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


@changes(topic="shop.public.customers", key=["id"])
class Customer(Struct):
    id: int
    name: str
    balance: Decimal | None = None
    since: datetime | None = None
    born: date | None = None
    mood: Literal["ok", "bad"] | None = None
    tags: list[str] | None = None
    scores: list[int] | None = None
    notes: dict[str, Any] | None = None
    photo: bytes | None = None


def change(
    op: str,
    lsn: int | None,
    row: dict[str, Any] | None = None,
    *,
    at: int | None = None,
    wrapped: bool = False,
    **source: Any,
) -> bytes:
    """A Debezium envelope of one change. `at`: seconds after NOON; by default the lsn."""
    seconds = lsn if at is None else at
    assert seconds is not None
    time = NOON + seconds * 1_000_000
    source_fields = {
        "lsn": lsn,
        "ts_us": time,
        "ts_ms": time // 1000,
        "txId": lsn,
        "snapshot": "false",
        **source,
    }
    envelope = {
        "op": op,
        "before": None,
        "after": None,
        "source": source_fields | source,
        "ts_ms": time // 1000,
    }
    envelope["before" if op == "d" else "after"] = row
    return json.dumps({"schema": {"type": "struct"}, "payload": envelope} if wrapped else envelope).encode()
