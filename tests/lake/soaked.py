"""A process that ingests in small commits on end, for test_soak: python -m tests.lake.soaked FOLDER COMMITS.

First so many commits to one table; then, in turn, the first hundred of a new table and a hundred more of
the old one, ROUNDS times: so that both are held against each other while the machine is as it is.

Of every hundred commits it says the table and two figures, each of one commit in milliseconds: the median
of the time it took, and the processor's time for it.
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
from headrace.events.ingest import ingest
from headrace.lake import LakeTable

EVENTS = 10  # a commit
ROUNDS = 5


def main() -> None:
    folder, commits = Path(sys.argv[1]), int(sys.argv[2])
    ingest.BATCH, ingest.TRICKLE = EVENTS, 0  # no pause between two commits
    ingest.KEEP = commits * 2  # the test has upkeep of its own, with graces of seconds
    took: list[float] = []
    used = [time.process_time()]
    append = LakeTable.append

    def timed(self: LakeTable, *given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        done = append(self, *given, **named)
        took.append((time.perf_counter() - begun) * 1000)
        if len(took) % 100 == 0:
            used.append(time.process_time())
            print(self.name, median(took[-100:]), (used[-1] - used[-2]) * 10, flush=True)
        return done

    LakeTable.append = timed  # type: ignore[method-assign]
    contract = contract_of(Click)
    assert contract is not None
    settings = settings_of(folder)
    events, opened = log.open(settings.log.url), lake.open(settings)

    def until_end(one: ingest.Ingest, first: int, count: int) -> None:
        for start in range(first, first + count, 10_000):
            numbers = range(start, min(start + 10_000, first + count))
            events.append(one.contract.topic, [click(n) for n in numbers])
        one.run(until_end=True, stop=threading.Event())

    old = ingest.Ingest(contract, events, opened)
    until_end(old, 0, commits * EVENTS)
    for number in range(ROUNDS):
        fresh = attrs.evolve(contract, topic=f"fresh{number}")
        until_end(ingest.Ingest(fresh, events, opened), 0, 100 * EVENTS)
        until_end(old, (commits + number * 100) * EVENTS, 100 * EVENTS)


if __name__ == "__main__":
    main()
