"""Several ingest workers share one topic: each event counts once, whichever worker owns its log partition."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from time import sleep

import attrs
import polars as pl
import pytest
from tests.events.clicks import click
from tests.until import until

from headrace import log
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.events.ingest.position import read_position
from headrace.kernel.properties import LATEST_ARRIVAL, UNDECLARED_FIELDS
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.log import Log

PARTITIONS = 4


@pytest.fixture
def wide(contract: Contract) -> Contract:
    return attrs.evolve(contract, partitions=PARTITIONS)


class Worker:
    """An ingest in a thread, with a separate log and lake, as in a separate process."""

    def __init__(self, contract: Contract, url: str, settings: Settings, *, until_end: bool = False) -> None:
        self.commits: list[Progress] = []
        self.stop = threading.Event()
        self.failed: BaseException | None = None
        self._log = log.open(url)
        self._ingest = Ingest(contract, self._log, open_lake(settings))
        self._thread = threading.Thread(target=self._run, args=(until_end,))
        self._thread.start()

    def _run(self, until_end: bool) -> None:
        try:
            self._ingest.run(until_end, self.stop, IngestHooks(self.commits.append))
        except BaseException as error:
            self.failed = error

    @property
    def events(self) -> int:
        return sum(progress.events for progress in self.commits)

    def join(self, *, stop: bool = True) -> None:
        if stop:
            self.stop.set()
        self._thread.join(90)
        assert not self._thread.is_alive()
        self._log.close()
        if self.failed is not None:
            raise self.failed


Start = Callable[..., Worker]


@pytest.fixture
def start(url: str, settings: Settings) -> Iterator[Start]:
    workers: list[Worker] = []

    def start_worker(contract: Contract, **options: bool) -> Worker:
        workers.append(Worker(contract, url, settings, **options))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.join()


def append(opened: Log, numbers: Sequence[int], **fields: object) -> int:
    opened.append("clicks", [click(n, **fields) for n in numbers], [b"%d" % n for n in numbers])
    return len(numbers)


def test_workers_divide_a_topic_and_every_event_counts_once(
    url: str, wide: Contract, start: Start, lake: Lake
) -> None:
    opened = log.open(url)
    opened.create("clicks", PARTITIONS)
    first = start(wide)
    sent = append(opened, range(300), color="red")
    until(lambda: first.events == sent)
    second = start(wide)
    number = 300
    while not second.commits:  # it is assigned log partitions once the group has rebalanced
        sent += append(opened, range(number, number + 50), color="red")
        number += 50
        sleep(0.1)
    sent += append(opened, range(0, number, 3), size=1)  # duplicates, whichever worker had the first copies
    until(lambda: first.events + second.events == sent)
    first.join()  # the second worker takes over its log partitions
    sent += append(opened, range(number, number + 200))
    number += 200
    until(lambda: first.events + second.events == sent)

    rows = lake.table("clicks").scan().collect()
    assert len(rows) == sent
    assert rows.select("_log_partition", "_log_offset").n_unique() == sent
    good = rows.filter(pl.col("_valid"))
    assert sorted(good["user"].to_list()) == list(range(number))
    table = lake.table("clicks")
    arrived = rows["_arrived_at"].max()
    assert int(table.property(LATEST_ARRIVAL) or 0) == pl.Series([arrived]).to_physical()[0]
    assert json.loads(table.property(UNDECLARED_FIELDS) or "") == {"color": number - 200, "size": sent - number}
    position = read_position(table)
    assert position is not None
    assert all(position.next_offset(p) > rows.filter(_log_partition=p)["_log_offset"].max() for p in range(4))
    opened.close()


def test_until_end_waits_for_the_events_of_other_workers(
    url: str, wide: Contract, start: Start, lake: Lake
) -> None:
    opened = log.open(url)
    opened.create("clicks", PARTITIONS)
    first = start(wide)
    append(opened, range(100))
    until(lambda: first.events == 100)
    append(opened, range(100, 1_000))
    second = start(wide, until_end=True)
    second.join(stop=False)
    assert lake.table("clicks").scan().select(pl.len()).collect().item() == 1_000
    assert first.events + second.events == 1_000
    opened.close()


def test_duplicates_without_a_key_reach_one_worker_from_any_log_partition(
    url: str, wide: Contract, start: Start, lake: Lake
) -> None:
    keyless = attrs.evolve(wide, key=None)
    opened = log.open(url)
    opened.create("clicks", PARTITIONS)
    workers = [start(keyless), start(keyless)]
    for turn in range(8):  # each append without a key goes to the next log partition
        opened.append("clicks", [click(n) for n in range(20)])
        until(lambda turn=turn: sum(worker.events for worker in workers) == 20 * (turn + 1))  # type: ignore[misc]
    commits = [commit for worker in workers for commit in worker.commits]
    assert len({p for commit in commits for p in commit.position.offsets}) == PARTITIONS
    refused = sum((commit.refused for commit in commits), Counter[str]())
    assert refused == Counter(duplicate=140)
    assert sorted(lake.table("clicks").scan().filter("_valid").collect()["user"].to_list()) == list(range(20))
    opened.close()
