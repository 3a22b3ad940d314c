"""A process that ingests in small commits, for test_soak: python -m tests.lake.small_commits FOLDER COMMITS.

It makes COMMITS commits to one table. Then it makes, ROUNDS times, the first hundred commits of a new table
and a hundred more of the old one, so that both are compared under the same load of the machine.

After each hundred commits it prints the table and two figures in milliseconds: the median duration of a commit,
and the mean processor time of a commit.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from tests.events.clicks import Click, click
from tests.events.forking import settings_of

from headrace import lake, log
from headrace.declare.event import contract_of
from headrace.events.ingest import ingest, maintenance
from headrace.lake import LakeTable

EVENTS = 10  # a commit
ROUNDS = 5


def main() -> None:
    folder, commits = Path(sys.argv[1]), int(sys.argv[2])
    ingest.BATCH, ingest.TRICKLE = EVENTS, 0  # no pause between commits
    maintenance.COMMITS = commits * 2  # the test maintains the tables itself, with grace periods of seconds
    durations: list[float] = []
    cpu_times = [time.process_time()]
    append = LakeTable.append

    def time_append(self: LakeTable, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        snapshot = append(self, *arguments, **options)
        durations.append((time.perf_counter() - start) * 1000)
        if len(durations) % 100 == 0:
            cpu_times.append(time.process_time())
            print(self.name, median(durations[-100:]), (cpu_times[-1] - cpu_times[-2]) * 10, flush=True)
        return snapshot

    LakeTable.append = time_append  # type: ignore[method-assign]
    contract = contract_of(Click)
    assert contract is not None
    settings = settings_of(folder)
    events, shop_lake = log.open(settings.log.url), lake.open(settings)

    def ingest_to_end(job: ingest.Ingest, first: int, count: int) -> None:
        for start in range(first, first + count, 10_000):
            numbers = range(start, min(start + 10_000, first + count))
            events.append(job.contract.topic, [click(n) for n in numbers])
        job.run(until_end=True, stop=threading.Event())

    old = ingest.Ingest(contract, events, shop_lake)
    ingest_to_end(old, 0, commits * EVENTS)
    for number in range(ROUNDS):
        fresh = attrs.evolve(contract, topic=f"fresh{number}")
        ingest_to_end(ingest.Ingest(fresh, events, shop_lake), 0, 100 * EVENTS)
        ingest_to_end(old, (commits + number * 100) * EVENTS, 100 * EVENTS)


if __name__ == "__main__":
    main()
