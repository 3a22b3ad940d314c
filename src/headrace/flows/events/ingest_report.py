"""The report of an ingest: the sums of its commits, by topic."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from headrace.events.ingest.progress import Progress

__all__ = ["IngestReport", "TopicReport"]


class TopicReport(Struct):
    """What was ingested from one topic.

    Attributes:
        topic: the topic.
        events: how many events were read.
        good: how many of them are good.
        refused: code → how many events were refused.
        extra: field that the contract does not name → how many events have it.
        lost: how many events, at most, the log deleted before they were read.
    """

    topic: str
    events: int = 0
    good: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class IngestReport(Struct):
    """What was ingested.

    Attributes:
        topics: topic → its report. Topics without new events are left out.
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
