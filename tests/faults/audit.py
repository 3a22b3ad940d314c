"""The audit: compares what the producers sent with what plain readers find in the table and in the sink."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pyiceberg.catalog import load_catalog
from tests.faults.online import compare_online_state
from tests.faults.poison import DIGITS, GOOD, PRICE, number_of

if TYPE_CHECKING:
    from tests.faults.setup import Setup

__all__ = ["audit"]

Place = tuple[int, int]


def audit(setup: Setup, edited: bool) -> dict[str, Any]:
    """Counts what there is, and every violation of exactly-once by its name (each of these must be 0)."""
    sent = _SentEvents(setup.notes)
    table = _table(setup)
    rows = pl.DataFrame(pl.from_arrow(table.scan().to_arrow()))
    with closing(sqlite3.connect(setup.disk / "sink.db")) as sink_db:
        in_sink = Counter(user for (user,) in sink_db.execute("SELECT user FROM applied"))
    good = Counter(rows.filter("_valid")["user"].to_list())
    original = rows.filter(pl.col("_first_offset").is_null())
    numbers = _numbers(original)
    stored = Counter(numbers.values())
    places = Counter(rows.select("_log_partition", "_log_offset").iter_rows())
    firsts = Counter(
        rows.filter("_valid", pl.col("_first_offset").is_not_null())
        .select("_first_partition", "_first_offset")
        .iter_rows()
    )
    bad = {n for n, kind in sent.kinds.items() if kind not in GOOD}
    expected_good = {n for n in sent.acked if sent.kinds[n] in GOOD}
    prices = dict(rows.filter("_valid").select("user", "price").iter_rows())
    extra = rows.filter("_valid").select("user", "_extra").iter_rows()
    extras = {user: f'{{"exact":{DIGITS}}}' if sent.kinds[user] == "odd decimals" else None for user in prices}
    return {
        "acknowledged": len(sent.places),
        "unacknowledged": sum(sent.in_doubt.values()),
        "rows": rows.height,
        "good": sum(good.values()),
        "refused": dict(Counter(rows.filter(~pl.col("_valid"))["_code"].to_list())),
        "replayed": rows.filter(pl.col("_first_offset").is_not_null()).height,
        "lost": sum(place not in numbers or numbers[place] not in (None, n) for place, n in sent.places.items())
        + sum((sent.acked - stored).values()),
        "duplicated": sum(n - 1 for n in places.values())
        + sum(
            (Counter({n: c for n, c in stored.items() if n is not None}) - sent.acked - sent.in_doubt).values()
        ),
        "unknown": len(stored.keys() - sent.kinds.keys() - {None}),
        "good lost": len(expected_good - good.keys()),
        "good duplicated": sum(n - 1 for n in good.values()),
        "broken admitted as good": len(bad & good.keys()),
        "other content": sum(price != PRICE[sent.kinds[n]] for n, price in prices.items() if n not in bad),
        "digits lost": sum(text != extras[user] for user, text in extra),
        **compare_online_state(setup.settings, setup.contract(fixed=True), rows.filter("_valid"), edited),
        "replays admitted twice": sum(n - 1 for n in firsts.values()),
        "sink lost": len(good.keys() - in_sink.keys()),
        "sink duplicated": sum(n - 1 for n in in_sink.values()),
        "sink unknown": len(in_sink.keys() - good.keys()),
        "properties": {n: v for n, v in table.properties.items() if n.startswith("interfering.")},
    }


class _SentEvents:
    """The events that the producers sent, by their notes.

    Attributes:
        kinds: number → kind of event.
        places: (partition, offset) of each acknowledged event → its number.
        acked: number → how often it was sent and acknowledged.
        in_doubt: number → how often it was sent without an acknowledgement.
    """

    def __init__(self, notes: Path) -> None:
        self.kinds: dict[int, str] = {}
        self.places: dict[Place, int] = {}
        self.acked: Counter[int] = Counter()
        self.in_doubt: Counter[int] = Counter()
        for path in notes.glob("sent-*"):
            chunk: list[tuple[str, int]] = []
            for line in path.read_bytes().splitlines(keepends=True):
                entry = (
                    json.loads(line) if line.endswith(b"\n") else {}
                )  # the producer was killed while it wrote this line
                if "at" in entry:
                    self.acked.update(number for _, number in chunk)
                    self.places.update(
                        {tuple(at): n for at, (_, n) in zip(entry["at"], chunk, strict=True)}  # type: ignore[misc]
                    )
                else:
                    self._mark_in_doubt(chunk)
                    for kind, number in entry.get("sent", ()):
                        self.kinds.setdefault(number, kind)  # a conflict is of an event that was sent before
                chunk = entry.get("sent", [])
            self._mark_in_doubt(chunk)
        nameless = {n for n, kind in self.kinds.items() if kind in ("null", "no bytes", "tombstone")}
        for number in nameless:  # these hold no number: only their places tell them apart
            self.acked.pop(number, None)

    def _mark_in_doubt(self, chunk: list[tuple[str, int]]) -> None:
        self.in_doubt.update(number for _, number in chunk)


def _table(setup: Setup) -> Any:
    """The table, opened by PyIceberg without Headrace."""
    settings = setup.settings
    if setup.catalog == "sqlite":
        path = settings.lake.catalog_url.removeprefix("sqlite://")
        properties = {"type": "sql", "uri": f"sqlite:///{path}"}
    else:
        properties = {"type": "rest", "uri": setup.catalog}
    return load_catalog("headrace", **properties).load_table((settings.project, setup.contract().table))


def _numbers(rows: pl.DataFrame) -> dict[Place, int | None]:
    """(partition, offset) of each event → its number, from its column or from its raw bytes."""
    columns = rows.select("_log_partition", "_log_offset", "user", "_raw")
    return {
        (partition, offset): user if raw is None else number_of(raw)
        for partition, offset, user, raw in columns.iter_rows()
    }
