"""The count: what the producers sent, compared with what plain readers find in the table and in the sink."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pyiceberg.catalog import load_catalog
from tests.faults.poison import POISON, number_of

if TYPE_CHECKING:
    from tests.faults.setup import Setup

__all__ = ["audit"]

Place = tuple[int, int]


def audit(setup: Setup) -> dict[str, Any]:
    """What is wrong, by what is wrong (each must be 0 or empty), and how much there is."""
    sent = _Sent(setup.notes)
    table = _table(setup)
    rows = pl.DataFrame(pl.from_arrow(table.scan().to_arrow()))
    with closing(sqlite3.connect(setup.disk / "sink.db")) as sink_db:
        taken = Counter(user for (user,) in sink_db.execute("SELECT user FROM taken"))
    good = Counter(rows.filter("_valid")["user"].to_list())
    original = rows.filter(pl.col("_first_offset").is_null())
    numbers = _numbers(original)
    found = Counter(numbers.values())
    places = Counter(rows.select("_log_partition", "_log_offset").iter_rows())
    firsts = Counter(
        rows.filter("_valid", pl.col("_first_offset").is_not_null())
        .select("_first_partition", "_first_offset")
        .iter_rows()
    )
    append_poison = {n for n, kind in sent.kinds.items() if kind in POISON or kind == "broken"}
    wanted = {n for n in sent.acked if sent.kinds[n] in ("good", "mendable")}
    return {
        "acknowledged": len(sent.places),
        "unacknowledged": sum(sent.unknown.values()),
        "rows": rows.height,
        "good": sum(good.values()),
        "refused": dict(Counter(rows.filter(~pl.col("_valid"))["_code"].to_list())),
        "replayed": rows.filter(pl.col("_first_offset").is_not_null()).height,
        "lost": sum(place not in numbers or numbers[place] not in (None, n) for place, n in sent.places.items())
        + sum((sent.acked - found).values()),
        "twice": sum(n - 1 for n in places.values())
        + sum(
            (Counter({n: c for n, c in found.items() if n is not None}) - sent.acked - sent.unknown).values()
        ),
        "strange": len(found.keys() - sent.kinds.keys() - {None}),
        "good lost": len(wanted - good.keys()),
        "good twice": sum(n - 1 for n in good.values()),
        "good, but broken": len(append_poison & good.keys()),
        "replays admitted twice": sum(n - 1 for n in firsts.values()),
        "sink lost": len(good.keys() - taken.keys()),
        "sink twice": sum(n - 1 for n in taken.values()),
        "sink strange": len(taken.keys() - good.keys()),
        "properties": {n: v for n, v in table.properties.items() if n.startswith("meddler.")},
    }


class _Sent:
    """What the producers wrote down.

    Attributes:
        kinds: number → what it was.
        places: where each acknowledged event is → its number.
        acked, unknown: number → how often it was sent and acknowledged, or its fate not heard of.
    """

    def __init__(self, notes: Path) -> None:
        self.kinds: dict[int, str] = {}
        self.places: dict[Place, int] = {}
        self.acked: Counter[int] = Counter()
        self.unknown: Counter[int] = Counter()
        for path in notes.glob("sent-*"):
            chunk: list[tuple[str, int]] = []
            for line in path.read_bytes().splitlines(keepends=True):
                said = json.loads(line) if line.endswith(b"\n") else {}  # killed while it wrote this line
                if "at" in said:
                    self.acked.update(number for _, number in chunk)
                    self.places.update(
                        {tuple(at): n for at, (_, n) in zip(said["at"], chunk, strict=True)}  # type: ignore[misc]
                    )
                else:
                    self._doubt(chunk)
                    self.kinds.update({number: kind for kind, number in said.get("sent", ())})
                chunk = said.get("sent", [])
            self._doubt(chunk)
        nameless = {n for n, kind in self.kinds.items() if kind in ("null", "no bytes", "tombstone")}
        for number in nameless:  # told from one another by their places alone
            self.acked.pop(number, None)

    def _doubt(self, chunk: list[tuple[str, int]]) -> None:
        self.unknown.update(number for _, number in chunk)


def _table(setup: Setup) -> Any:
    """The table as PyIceberg alone finds it."""
    settings = setup.settings
    if setup.catalog == "sqlite":
        path = settings.lake.catalog_url.removeprefix("sqlite://")
        given = {"type": "sql", "uri": f"sqlite:///{path}"}
    else:
        given = {"type": "rest", "uri": setup.catalog}
    return load_catalog("headrace", **given).load_table((settings.project, setup.contract().table))


def _numbers(rows: pl.DataFrame) -> dict[Place, int | None]:
    """Where each event is → its number, from its column or from its raw bytes."""
    columns = rows.select("_log_partition", "_log_offset", "user", "_raw")
    return {
        (partition, offset): user if raw is None else number_of(raw)
        for partition, offset, user, raw in columns.iter_rows()
    }
