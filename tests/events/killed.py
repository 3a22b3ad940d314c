"""A process that forks ingests in which a fault strikes; and what other tests run in a process of its own.

It is warm (everything is imported) but has used nothing, so that a fork costs milliseconds and meets
no lock that a thread holds. Libraries' own idle threads (allocators') are safe to fork beside.
Each line of its input is an order, each line of its output says how the child ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.events.clicks import Click

from headrace import log
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import contract_of
from headrace.events.ingest import ingest
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.watch import Watch
from headrace.kernel import faults
from headrace.lake import catalog


def settings_of(folder: Path) -> Settings:
    return make_settings(folder, "scratch", state=folder / "state")


def watch_once(folder: str) -> None:
    """Ingests what the log holds and looks at the rates, as `headrace ingest --until-end` does."""
    settings = settings_of(Path(folder))
    contract = contract_of(Click)
    assert contract is not None
    events, lake = log.open(settings.log.url), catalog.open(settings)
    with Watch([contract], events, lake) as watch:
        ingest.Ingest(contract, events, lake).run(
            until_end=True, stop=threading.Event(), tell=lambda one: watch.committed(one.topic)
        )


def forward_once(folder: str, url: str, topic: str) -> None:
    """Ingests a topic of a broker in small commits, and forwards it to two more."""
    ingest.BATCH, ingest.TRICKLE = 100, 0
    declared = contract_of(Click)
    assert declared is not None
    contract = replace(
        declared, topic=topic, dedup_within=None, partitions=2, forward=(f"{topic}.valid", f"{topic}.invalid")
    )
    events = log.open(url)
    sink = ForwardSink(contract, events)
    lake = catalog.open(settings_of(Path(folder)))
    ingest.Ingest(contract, events, lake, [sink]).run(until_end=True, stop=threading.Event())


def forked(order: dict[str, Any]) -> int:
    """The wait status of a child that ingests and forwards, killed at the point that the order names."""
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
        sys.stdout.write(f"{forked(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
