"""Progress: the counts of each commit of an ingest, and the totals of a run for its recorders."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, Run

__all__ = ["Progress", "RunTotals"]


class Progress(Struct, frozen=True):
    """The counts and the position of one commit.

    Attributes:
        topic: the topic.
        events: the number of events in the batch.
        good: the number of good events.
        refused: code → the number of events refused with it.
        position: how far the topic's table has read the log after it, in the log partitions of this ingest.
        snapshot: the id of the table's snapshot.
        extra: field that the contract does not name → the number of events with it (Verdicts.extra).
        lost: how many events, at most, the log deleted (by its retention) before they were read.
    """

    topic: str
    events: int
    good: int
    refused: Counter[str]
    position: LogPosition
    snapshot: int
    extra: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class RunTotals:
    """Sums the commits of a run into its inputs and outputs.

    Args:
        run: the run, which has the topic as its input and names the topic's table as what it writes.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        (self._topic,), (self._table,) = run.inputs, run.writes
        self._events = self._good = self._lost = 0
        self._refused: Counter[str] = Counter()
        self._extra: Counter[str] = Counter()

    def add(self, progress: Progress) -> None:
        """Adds a commit, and reports to the recorders that the run continues."""
        self._events += progress.events
        self._good += progress.good
        self._refused += progress.refused
        self._extra += progress.extra
        self._lost += progress.lost
        facts: dict[str, object] = {
            "rows": self._events,
            "good": self._good,
            "refused": dict(self._refused),
            **({"extra": dict(self._extra)} if self._extra else {}),
            **({"lost": self._lost} if self._lost else {}),
            **self._table.facts,
        }
        snapshot = SnapshotPosition(self._table.name, progress.snapshot)
        topic_facts = {"rows": self._events, **self._topic.facts}
        self._run.inputs[:] = [Dataset("topic", progress.topic, progress.position, topic_facts)]
        self._run.outputs[:] = [Dataset("table", self._table.name, snapshot, facts)]
        self._run.report_running()

    def report_running(self) -> None:
        """Reports to the recorders that the run continues."""
        self._run.report_running()
