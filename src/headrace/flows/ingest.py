"""ingest: the log into the topics' tables, and into the online state, until stopped or at the end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from headrace import lake, lineage, log
from headrace.config.settings import Settings
from headrace.declare.project import load_project
from headrace.events.ingest import Progress, ingest_all
from headrace.features import online as online_stores
from headrace.features.stream import OnlineSink
from headrace.kernel.run import recorder_added
from headrace.serving.topics import own_contracts

__all__ = ["IngestReport", "Topic", "ingest"]


@dataclass
class Topic:
    """What was ingested of one topic."""

    topic: str
    events: int = 0
    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class IngestReport:
    """What was ingested.

    Attributes:
        topics: by topic; those without new events are not named.
        seconds: wall time.
    """

    topics: dict[str, Topic]
    seconds: float

    @property
    def events(self) -> int:
        """How many events, good and refused."""
        return sum(one.events for one in self.topics.values())


def ingest(
    settings: Settings,
    topics: Sequence[str] = (),
    *,
    until_end: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> IngestReport:
    """Ingests the topics (default: every one with a contract), each event exactly once.

    Killed at any point, the next call goes on from the last commit.

    Args:
        settings: whose project.
        topics: which.
        until_end: return when what the log held at the call is in the tables; else run until `stop`.
        stop: set from another thread, it ends the work after the batch that is being written.
        progress: is told of each commit, from the topics' threads.

    Raises:
        CallError: a topic has no contract.
        Refused: a topic was made again since its table last read it.
        Unavailable: log, lake or online store is away.
    """
    begun = perf_counter()
    project = load_project(settings, without=("feast",))
    contracts = [project.contract(name) for name in topics] or list(project.contracts.values())
    found: dict[str, Topic] = {}

    def tell(one: Progress) -> None:
        topic = found.setdefault(one.topic, Topic(one.topic))
        topic.events += one.events
        topic.good += one.good
        topic.refused.update(one.refused)
        progress(one)

    store = lineage.open(settings)
    opened = log.open(settings.log_url)
    online = online_stores.open(settings.online_url)
    if not topics:  # the product's own topics, once there is something on them
        contracts += [one for one in own_contracts() if one.topic in opened.topics()]
    try:
        with recorder_added(store.recorder()):
            ingest_all(
                contracts,
                opened,
                lake.open(settings),
                until_end=until_end,
                stop=stop or threading.Event(),
                sinks_of=lambda contract: [OnlineSink(project, contract, online)],
                tell=tell,
            )
    finally:
        online.close()
        opened.close()
        store.close()
    return IngestReport(found, perf_counter() - begun)
