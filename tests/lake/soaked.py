"""A process that ingests in small commits on end, for test_soak: python -m tests.lake.soaked FOLDER COMMITS.

Of every hundred commits it says two figures, each of one commit in milliseconds: the median of the time
it took, and the processor's time for it, which says the same on a busy machine as on an idle one.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.events.clicks import Click
from tests.events.killed import settings_of

from headrace import lake, log
from headrace.declare.event import contract_of
from headrace.events.ingest import ingest
from headrace.lake import LakeTable

EVENTS = 10  # a commit


def main() -> None:
    folder, commits = Path(sys.argv[1]), int(sys.argv[2])
    ingest.BATCH, ingest.TRICKLE = EVENTS, 0  # no pause between two commits
    ingest.KEEP = commits  # the test has upkeep of its own, with graces of seconds
    took: list[float] = []
    used = [time.process_time()]
    append = LakeTable.append

    def timed(self: LakeTable, *given: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        done = append(self, *given, **named)
        took.append((time.perf_counter() - begun) * 1000)
        if len(took) % 100 == 0:
            used.append(time.process_time())
            print(median(took[-100:]), (used[-1] - used[-2]) * 10, flush=True)
        return done

    LakeTable.append = timed  # type: ignore[method-assign]
    contract = contract_of(Click)
    assert contract is not None
    settings = settings_of(folder)
    one = ingest.Ingest(contract, log.open(settings.log_url), lake.open(settings))
    one.run(until_end=True, stop=threading.Event())


if __name__ == "__main__":
    main()
