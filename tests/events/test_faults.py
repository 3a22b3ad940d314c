"""Ingest killed with -9 at each named point of the write path and at random ones: each event counts once."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from tests.events.clicks import click
from tests.events.killed import settings_of

from headrace import log
from headrace.lake import open as open_lake

POINTS = (
    "lake.before_data_file",
    "lake.after_data_file",
    "lake.before_commit",
    "lake.after_commit",
    "ingest.before_next_batch",
    "upkeep.expire",
)
RANDOM = 100
ROOT = Path(__file__).parents[2]

Killer = Callable[..., int]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.events.killed"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def order(folder: Path, fault: str | None = None, delay: float | None = None) -> int:
        process.stdin.write(json.dumps({"folder": str(folder), "fault": fault, "delay": delay}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield order
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def written(first: int, count: int) -> tuple[list[bytes], list[int]]:
    """Events from number `first` on, broken and repeated ones among them, and the users that are good."""
    values, good = [], []
    for number in range(first, first + count):
        if number % 7 == 3:
            values.append(b"broken %d" % number)
        elif number % 11 == 5 and (number - 1) % 7 != 3:
            values.append(click(number - 1))  # the same again
        else:
            values.append(click(number))
            good.append(number)
    return values, good


def test_killed_anywhere_every_event_counts_once(killer: Killer, tmp_path: Path) -> None:
    chance = random.Random(7)
    settings = settings_of(tmp_path)
    events = log.open(settings.log_url)
    events.create("clicks")
    good: list[int] = []
    total = 0

    def more(count: int) -> None:
        nonlocal total
        values, users = written(total, count)
        events.append("clicks", values)
        good.extend(users)
        total += count

    struck: Counter[str] = Counter()
    for point in POINTS:
        more(1_000)
        # The third time it is reached: after the first commits, with the next batch judged meanwhile.
        status = killer(tmp_path, fault=f"{point}:3")
        assert os.WIFSIGNALED(status), f"{point} was never reached"
        assert os.WTERMSIG(status) == signal.SIGKILL
        struck[point] += 1
    while struck["random"] < RANDOM:
        more(240)
        status = killer(tmp_path, delay=chance.uniform(0, 0.12))
        if os.WIFSIGNALED(status):
            struck["random"] += 1
        else:
            assert status == 0
            more(600)  # it came to the end unharmed: more to do for the next
    assert killer(tmp_path) == 0
    assert dict(struck) == {**dict.fromkeys(POINTS, 1), "random": RANDOM}

    rows = open_lake(settings).table("clicks").scan().collect()
    assert sorted(rows["_log_offset"].to_list()) == list(range(total))
    assert sorted(rows.filter(pl.col("_valid"))["user"].to_list()) == good
    assert rows.filter(~pl.col("_valid"))["_code"].unique().sort().to_list() == ["duplicate", "not_json"]
    with closing(sqlite3.connect(tmp_path / "shelf.db")) as shelf:
        assert [user for (user,) in shelf.execute("SELECT user FROM taken ORDER BY user")] == good
    events.close()


def test_two_ingests_killed_and_started_again_beside_each_other_count_once(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    events = log.open(settings.log_url)
    events.create("clicks")
    values, good = written(0, 3_000)
    events.append("clicks", values)
    killers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.events.killed"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    orders = [{"delay": 0.15}, {"delay": 0.2}, {"delay": None}]
    lines = "".join(json.dumps({"folder": str(tmp_path), "fault": None, **order}) + "\n" for order in orders)
    for killer in killers:
        assert killer.stdin is not None
        killer.stdin.write(lines)
        killer.stdin.flush()
    ends = [killer.communicate(timeout=120)[0].split() for killer in killers]
    assert [end[-1] for end in ends] == ["0", "0"]
    rows = open_lake(settings).table("clicks").scan().collect()
    assert sorted(rows["_log_offset"].to_list()) == list(range(3_000))
    assert sorted(rows.filter(pl.col("_valid"))["user"].to_list()) == good
    with closing(sqlite3.connect(tmp_path / "shelf.db")) as shelf:
        assert [user for (user,) in shelf.execute("SELECT user FROM taken ORDER BY user")] == good
    events.close()
