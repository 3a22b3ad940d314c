"""A shop's events by the million, under the contract of the shop example."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headrace.declare.event import Contract, contract_of

SHOP = Path(__file__).parents[2] / "examples" / "shop"
sys.path.insert(0, str(SHOP))

from shop.events import UserBehaviour  # noqa: E402  (the example is not an installed package)

__all__ = ["CONTRACT", "SHOP", "UserBehaviour", "count_good", "make_events"]

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
_declared = contract_of(UserBehaviour)
assert _declared is not None
CONTRACT: Contract = _declared


def make_events(count: int, broken: float = 0.0, begin: datetime = BEGIN, rate: int = 50) -> Iterator[bytes]:
    """Generates events of the shop, about 230 bytes each, `rate` of them in a second of event time. The share
    `broken` of them is broken, in five ways."""
    kinds = ("view", "view", "view", "cart", "purchase")
    every = round(1 / broken) if broken else 0
    for n in range(count):
        values = {
            "event_time": (begin + timedelta(seconds=n // rate)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "event_type": kinds[n % 5],
            "product_id": 1_000_000 + n % 9_973,
            "category_id": 2_053_013_555_631_882_655 + n % 97,
            "user_id": 520_000_000 + n // 7 % 50_021,
            "price": 10.5 + n % 1_000,
            "user_session": f"a0a7a0a7-0000-4000-8000-{n // 7:012d}",
            "category_code": "electronics.smartphone",
            "brand": "samsung",
        }
        raw = json.dumps(values, separators=(",", ":")).encode()
        if every and n % every == 0:
            raw = (
                raw[:-20],
                raw.replace(b'"price":', b'"price":-'),
                raw.replace(b"view", b"look"),
                b"not JSON at all",
                raw.replace(b'"user_id"', b'"user"'),
            )[n // every % 5]
        yield raw


def count_good(count: int, broken: float) -> int:
    """The number of good events among so many."""
    return count - (len(range(0, count, round(1 / broken))) if broken else 0)
