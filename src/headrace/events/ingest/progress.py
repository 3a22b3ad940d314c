"""Progress: what each commit of an ingest did, and what is told of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import pyarrow as pa

from headrace.events.ingest.maintenance import IngestMaintenance
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, Run

__all__ = ["Progress", "Report"]

_UNSHARED = 5.0  # seconds after which who has no share of a topic is at work all the same


@dataclass(frozen=True)
class Progress:
    """What one commit did.

    Attributes:
        topic: the topic.
        events: how many events it carried.
        good: how many of them are good.
        refused: code → how many.
        position: how far the topic's table has read the log with it, in the log partitions that this
            ingest has.
        snapshot: the table's snapshot.
        extra: field that the contract does not name → how many events carried it (Verdicts.extra).
        lost: how many events, at most, the log had forgotten (its retention) before they were read.
    """

    topic: str
    events: int
    good: int
    refused: Counter[str]
    position: LogPosition
    snapshot: int
    extra: Counter[str] = field(default_factory=Counter)
    lost: int = 0


class Report:
    """What a run's recorders and its caller are told."""

    def __init__(
        self,
        this: Run,
        table: str,
        schema: pa.Schema,
        maintenance: IngestMaintenance,
        tell: Callable[[Progress], None] | None,
        at_work: Callable[[], None] | None,
    ) -> None:
        self._run, self._table, self._maintenance, self._tell = this, table, maintenance, tell
        self._at_work, self._began = at_work, monotonic()
        self._schema = {field.name: str(field.type) for field in schema}
        self._events = self._good = self._lost = 0
        self._refused: Counter[str] = Counter()
        self._extra: Counter[str] = Counter()

    def add(self, progress: Progress) -> None:
        """Takes a commit into account."""
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
            "schema": self._schema,
            "columns": {name: [f"{progress.topic}.{name}"] for name in self._schema},
        }
        made = SnapshotPosition(self._table, progress.snapshot)
        self._run.inputs[:] = [
            Dataset("topic", progress.topic, progress.position, {"rows": self._events, "schema": self._schema})
        ]
        self._run.outputs[:] = [Dataset("table", self._table, made, facts)]
        self.report_running()
        self._maintenance.count_commit()
        if self._tell is not None:
            self._tell(progress)

    def say_at_work(self, is_sure: bool) -> None:
        """Says once that the topic is at work: when that is sure, or after 5 s, for others may have it all."""
        if self._at_work is not None and (is_sure or monotonic() - self._began > _UNSHARED):
            self._at_work()
            self._at_work = None

    def report_running(self) -> None:
        """Says that it goes on."""
        self._run.report_running()
