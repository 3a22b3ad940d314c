"""The contract by which these tests judge events, and a maker of its events."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from headrace import Meta, Struct, event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@event(
    topic="clicks",
    time="at",
    key="user",
    identity=["user", "page"],
    dedup_within="1h",
    time_formats=["rfc3339", "%Y-%m-%d %H:%M:%S UTC"],
    coerce=True,
)
class Click(Struct):
    at: datetime
    user: int
    page: Literal["home", "shop", "cart"]
    price: Annotated[float, Meta(gt=0)] | None = None
    note: str | None = None


def click(number: int, **fields: Any) -> bytes:
    """A valid click; each number gives a different event."""
    at = NOON + timedelta(seconds=number)
    return json.dumps({"at": at.isoformat(), "user": number, "page": "home", **fields}).encode()
