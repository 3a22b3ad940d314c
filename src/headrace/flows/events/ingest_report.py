"""What an ingest reports at its end: the sums of its commits, by topic."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.events.ingest.progress import Progress

__all__ = ["IngestReport", "TopicReport"]


@dataclass
class TopicReport:
    """What was ingested of one topic.

    Attributes:
        topic: the topic.
        events: how many events.
        good: how many of them are good.
        refused: code → how many.
        extra: field that the contract does not name → events with it.
        lost: how many events, at most, the log had forgotten before they were read.
    """

    topic: str
    events: int = 0
    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    lost: int = 0


@dataclass
class IngestReport:
    """What was ingested.

    Attributes:
        topics: by topic; those without new events are not in it.
        seconds: wall time.
    """

    topics: dict[str, TopicReport] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def events(self) -> int:
        """How many events, good and refused."""
        return sum(topic.events for topic in self.topics.values())

    def add(self, progress: Progress) -> None:
        """Adds a commit."""
        topic = self.topics.setdefault(progress.topic, TopicReport(progress.topic))
        topic.events += progress.events
        topic.good += progress.good
        topic.refused.update(progress.refused)
        topic.extra.update(progress.extra)
        topic.lost += progress.lost
