"""Forks children that ingest until an injected fault kills them. Tests run its functions in new processes, too.

The process imports everything but uses nothing before it forks: a fork takes milliseconds, and no thread
holds a lock. The idle threads of libraries (allocators) do not disturb a fork. Each line of its input is an
order; each line of its output is the wait status of the child that the order forked.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import attrs
from tests.events.clicks import Click

from headrace import log
from headrace.alerts.watch import AlertWatch
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import contract_of
from headrace.events.ingest import ingest
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.refusals import RefusalSource
from headrace.kernel import faults
from headrace.lake.lake import open as open_lake


def settings_of(folder: Path) -> Settings:
    return make_settings(folder, "scratch", state=folder / "state")


def watch_once(folder: str) -> None:
    """Ingests the log to its end and watches the refusal rates, as `headrace ingest --until-end` does."""
    settings = settings_of(Path(folder))
    contract = contract_of(Click)
    assert contract is not None
    events, lake = log.open(settings.log.url), open_lake(settings)
    refusals = RefusalSource([contract], events, lake, [contract.topic])
    with AlertWatch([refusals], events, lake):
        ingest.Ingest(contract, events, lake).run(
            until_end=True,
            stop=threading.Event(),
            hooks=ingest.IngestHooks(lambda progress: refusals.note_commit(progress.topic)),
        )


def forward_once(folder: str, url: str, topic: str) -> None:
    """Ingests a topic of a broker in small commits and forwards it to two other topics."""
    ingest.BATCH, ingest.TRICKLE = 100, 0
    declared = contract_of(Click)
    assert declared is not None
    contract = attrs.evolve(
        declared, topic=topic, dedup_within=None, partitions=2, forward=(f"{topic}.valid", f"{topic}.invalid")
    )
    events = log.open(url)
    sink = ForwardSink(contract, events)
    lake = open_lake(settings_of(Path(folder)))
    ingest.Ingest(contract, events, lake, [sink]).run(until_end=True, stop=threading.Event())


def fork(order: dict[str, Any]) -> int:
    """Forks a child that ingests, forwards and dies where the order says; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            os.environ[faults.VARIABLE] = order["fault"]
            forward_once(order["folder"], *order["forward"])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(f"{fork(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
