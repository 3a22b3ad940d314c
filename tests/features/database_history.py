"""Random histories of a database's table, as Debezium sends them, and its rows at each moment by definition."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, NamedTuple

from tests.events.customers import change

__all__ = ["History", "Record", "Values", "make_history", "rows_at"]

Values = tuple[str | None, str | None]
"""The name and the balance of a customer."""


class Record(NamedTuple):
    """A record on the log, and the headers of a replay."""

    raw: bytes
    headers: dict[str, bytes] | None


class History(NamedTuple):
    """A history of the table.

    Attributes:
        states: the seconds at which the table changed, ascending, each with all of its rows from then on.
        batches: the records as they arrive, in groups that are ingested together.
    """

    states: list[tuple[int, dict[int, Values]]]
    batches: list[list[Record]]


def rows_at(history: History, second: int) -> dict[int, Values]:
    """The rows of the database's table at this second: every change until then, in the order of its log."""
    rows: dict[int, Values] = {}
    for at, state in history.states:
        if at <= second:
            rows = state
    return rows


def make_history(seed: int, *, transactions: int = 60, keys: int = 6) -> History:
    """A history of inserts, updates, deletes, keys that change or come again, truncates, lost deletes that a
    snapshot repairs, values that were not sent, changes that arrive late, and records that arrive twice."""
    chance = random.Random(seed)
    rows: dict[int, Values] = {}
    states: list[tuple[int, dict[int, Values]]] = []
    arriving: list[tuple[float, list[bytes]]] = []  # what is on the log together, by the time of its arrival
    lsn = second = 0
    for number in range(transactions):
        second += chance.choice([1, 1, 2, 5])
        raw: list[bytes] = []
        for _ in range(chance.choice([1, 1, 1, 3])):
            lsn += 10
            _apply(chance, rows, raw, keys, lsn, second)
        states.append((second, dict(rows)))
        is_lost = bool(rows) and chance.random() < 0.05
        if is_lost:  # nothing captured this delete
            del rows[chance.choice(sorted(rows))]
        if number == 0 or is_lost or chance.random() < 0.03:  # the connector reads the whole table again
            second, lsn = second + 1, lsn + 10
            raw += _snapshot(rows, lsn, second)
            states.append((second, dict(rows)))
        delay = chance.choice([0, 0, 0, 0, 0, 0.5, 8]) if all(b'"op": "r"' not in text for text in raw) else 0
        arriving.append((number + delay, raw))
        if chance.random() < 0.15:
            arriving.append((number + chance.choice([0.1, 3]), raw))  # delivered again
    records: list[Record] = []
    first: dict[bytes, int] = {}
    for _, raw in sorted(arriving, key=lambda entry: entry[0]):
        for text in raw:
            first.setdefault(text, len(records))
            records.append(Record(text, None))
    cuts = sorted({0, len(records), *(chance.randrange(len(records)) for _ in range(2))})
    return History(states, [records[low:high] for low, high in pairwise(cuts)])


def _apply(
    chance: random.Random, rows: dict[int, Values], raw: list[bytes], keys: int, lsn: int, second: int
) -> None:
    """Changes the table once, and adds what Debezium sends."""
    key, values = chance.randrange(keys), _values(chance, lsn)
    draw = chance.random()
    if draw < 0.02:
        rows.clear()
        raw.append(change("t", lsn, at=second))
    elif key not in rows:
        rows[key] = values
        raw.append(change("c", lsn, _row(key, values), at=second))
    elif draw < 0.3:
        del rows[key]
        raw += [change("d", lsn, {"id": key, "name": ""}, at=second), b""]
    elif draw < 0.5 and (other := chance.randrange(keys)) not in rows:  # an update of the key
        rows[other] = values
        del rows[key]
        raw += [change("d", lsn, {"id": key, "name": ""}, at=second), b""]
        raw.append(change("c", lsn, _row(other, values), at=second))
    elif draw < 0.6:  # the name is large and did not change
        rows[key] = rows[key][0], values[1]
        row = _row(key, values) | {"name": "__debezium_unavailable_value"}
        raw.append(change("u", lsn, row, at=second))
    else:
        rows[key] = values
        raw.append(change("u", lsn, _row(key, values), at=second))


def _snapshot(rows: dict[int, Values], lsn: int, second: int) -> list[bytes]:
    if not rows:
        return [change("r", lsn, None, at=second, snapshot="last")]
    marks = dict.fromkeys(rows, "true") | {max(rows): "last"}
    return [change("r", lsn, _row(key, rows[key]), at=second, snapshot=marks[key]) for key in sorted(rows)]


def _values(chance: random.Random, lsn: int) -> Values:
    return f"n{lsn}", chance.choice([None, f"{lsn}.25"])


def _row(key: int, values: Values) -> dict[str, Any]:
    return {"id": key, "name": values[0], "balance": values[1]}
