"""The events that the producers append: good ones, and poison for what reads them. Each holds its number."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from datetime import timedelta

from tests.events.clicks import NOON
from tests.faults.online import FAILS_ON
from tests.faults.setup import UNJUDGED, UNSTORED

__all__ = ["DIGITS", "GOOD", "POISON", "PRICE", "TOO_LARGE", "event", "number_of"]

TOO_LARGE = "too large for the log"
"""Refused by the log when it is appended, so no event of the topic."""

_MARK = re.compile(rb"#(\d+)#")
_BLOCK = random.Random(1).randbytes(4096)
PRICE = {
    "good": 1.5,
    "mendable": -1.0,
    "huge float": 1e308,
    "large float": 1e52,
    "odd decimals": 0.3,
    "function fails": 2.5,
}
"""Kind of event that is admitted, at once or once the contract is fixed → its price."""
GOOD = PRICE.keys()
DIGITS = "12345678901234567890.123456789012345678"
"""A number of more digits than a float has, in a field that the contract does not name."""


def _click(number: int, **fields: object) -> bytes:
    # All times lie within the deduplication window of an hour, however far apart the numbers are.
    at = NOON + timedelta(seconds=number % 3000)
    # For every 50th text no upper bound can be made by incrementing its 16th character.
    note = f"#{number}#".ljust(15, "-") + "\ud7ff" * (number % 50 == 0) + "."
    values = {"at": at.isoformat(), "user": number, "page": "home", "note": note, **fields}
    return json.dumps(values).encode()


def _odd_decimals(number: int) -> bytes:
    exact = b'"price": 0.30000000000000001, "exact": %s}' % DIGITS.encode()
    return _click(number, price="").replace(b'"price": ""}', exact)


def _garbage(number: int) -> bytes:
    return (b"#%d#" % number + _BLOCK * 245)[:990_000]


POISON: dict[str, Callable[[int], bytes]] = {
    "deep nesting": lambda n: b'{"note": "#%d#", "user": ' % n + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "bad UTF-8": lambda n: b'{"note": "#%d# \xff\xfe\x80"}' % n,
    "1 MB of garbage": _garbage,
    "huge numbers": lambda n: b'{"note": "#%d#", "user": 1%s, "price": 1e999}' % (n, b"0" * 400),
    "lone surrogate": lambda n: _click(n, note=f"#{n}# \ud800"),
    "year 0": lambda n: _click(n, at="0000-01-01T00:00:00Z"),
    "year 1": lambda n: _click(n, at="0001-01-01T00:00:00Z"),
    "before year 1 in UTC": lambda n: _click(n, at="0001-01-01T00:00:00+14:00"),
    "after year 9999 in UTC": lambda n: _click(n, at="9999-12-31T23:59:59-12:00"),
    "huge float": lambda n: _click(n, price=PRICE["huge float"]),
    "large float": lambda n: _click(n, price=PRICE["large float"]),
    "odd decimals": _odd_decimals,
    "function fails": lambda n: _click(n, price=PRICE["function fails"], note=f"#{n}# {FAILS_ON}"),
    "not judged": lambda n: _click(n, price=1.5, note=f"#{n}# {UNJUDGED}"),
    "not stored": lambda n: _click(n, price=1.5, note=f"#{n}# {UNSTORED}"),
    "null": lambda n: b"null ",
    "no bytes": lambda n: b"",
}


def event(kind: str, number: int) -> bytes:
    """The bytes of an event: `good`, `mendable` (its price is refused until the contract is fixed), `conflict`
    (a duplicate of the good event, with other content), `broken`, or a kind of POISON."""
    if kind in ("good", "mendable"):
        return _click(number, price=PRICE[kind])
    if kind == "conflict":
        return _click(number, price=9.5)
    if kind == "broken":
        return b"broken #%d#" % number
    return POISON[kind](number)


def number_of(raw: bytes) -> int | None:
    """The number in the bytes of an event; None if they hold none."""
    mark = _MARK.search(raw)
    return int(mark.group(1)) if mark else None
