"""Progress: what each commit of an ingest did, and the sums of a run for its recorders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, Run

__all__ = ["Progress", "RunTotals"]


@dataclass(frozen=True)
class Progress:
    """What one commit did.

    Attributes:
        topic: the topic.
        events: how many events it carried.
        good: how many of them are good.
        refused: code → how many.
        position: how far the topic's table has read the log with it, in the log partitions of this ingest.
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


class RunTotals:
    """Sums the commits of a run into its inputs and outputs.

    Args:
        run: the run.
        table: the name of the topic's table.
        schema: the contract's fields, for lineage.
    """

    def __init__(self, run: Run, table: str, schema: pa.Schema) -> None:
        self._run, self._table = run, table
        self._schema = {field.name: str(field.type) for field in schema}
        self._events = self._good = self._lost = 0
        self._refused: Counter[str] = Counter()
        self._extra: Counter[str] = Counter()

    def add(self, progress: Progress) -> None:
        """Adds a commit, and tells the recorders that the run continues."""
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
        snapshot = SnapshotPosition(self._table, progress.snapshot)
        read = {"rows": self._events, "schema": self._schema}
        self._run.inputs[:] = [Dataset("topic", progress.topic, progress.position, read)]
        self._run.outputs[:] = [Dataset("table", self._table, snapshot, facts)]
        self._run.report_running()

    def report_running(self) -> None:
        """Tells the recorders that the run continues."""
        self._run.report_running()
