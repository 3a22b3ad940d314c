"""Run: one execution of a job, with its inputs, outputs and outcome.

Code that does a job writes `with run("table clean_events", inputs=[...]) as r: ...; r.add_output(...)`, and
does not depend on the recorders. The code that assembles the process adds the recorders (lineage, tracing,
tracking) with `record_with`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from headrace.kernel.ids import new_id
from headrace.kernel.position import Position
from headrace.kernel.time import now

__all__ = [
    "Dataset",
    "DatasetKind",
    "Outcome",
    "Recorder",
    "Run",
    "RunEvent",
    "current_run",
    "record_with",
    "run",
]

DatasetKind = Literal["topic", "table", "file", "online", "model", "endpoint"]
Outcome = Literal["START", "RUNNING", "COMPLETE", "FAIL", "ABORT"]


class Dataset(Struct, frozen=True):
    """Data that a run reads or writes.

    Attributes:
        kind: topic, table, file, online store, model or endpoint.
        name: its name within the project: a topic, a table, a path relative to the project, a
            model's `name@version`.
        position: the position up to which it was read, or that was written.
        facts: JSON-ready facts: `rows`, `bytes`, `schema` (column → dtype), `digest`,
            `columns` (output column → the input columns it was made from).
    """

    kind: DatasetKind
    name: str
    position: Position | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Run(Struct):
    """One execution of a job.

    Attributes:
        inputs: what it has read so far, at its position.
        outputs: what it has written so far, at its position.
        reads: what its job reads, as far as that is known before the run has read it.
        writes: what its job writes, in the same way, as it was before the run.
    """

    job: str
    id: str
    parent: Run | None
    started: datetime
    inputs: list[Dataset]
    outputs: list[Dataset] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    reads: tuple[Dataset, ...] = ()
    writes: tuple[Dataset, ...] = ()
    ended: datetime | None = None
    _last_report: datetime | None = None

    def add_input(self, dataset: Dataset) -> None:
        """Adds an input that was not known at the start."""
        self.inputs.append(dataset)

    def add_output(self, dataset: Dataset) -> None:
        """Adds an output."""
        self.outputs.append(dataset)

    def add_facts(self, **facts: Any) -> None:
        """Adds JSON-ready facts: counts, metrics, parameters. Never a secret."""
        self.facts.update(facts)

    def report_running(self, every: timedelta = timedelta(minutes=1)) -> None:
        """Reports to the recorders that a continuous job still runs, at most once per `every`."""
        moment = now()
        if self._last_report is None or moment - self._last_report >= every:
            self._last_report = moment
            _report(RunEvent("RUNNING", self, moment))


class RunEvent(Struct, frozen=True):
    """An event for the recorders: the outcome so far, the run, and the error of a FAIL or ABORT."""

    outcome: Outcome
    run: Run
    time: datetime
    error: BaseException | None = None


class Recorder(Protocol):
    """Receives the events of runs. It must not block the work, and must not raise."""

    def record(self, event: RunEvent) -> None: ...


_recorders: list[Recorder] = []
_current: ContextVar[Run | None] = ContextVar("headrace_run", default=None)


@contextmanager
def record_with(recorder: Recorder) -> Iterator[Recorder]:
    """Adds a recorder, which receives the events of every run of this process during the block."""
    _recorders.append(recorder)
    try:
        yield recorder
    finally:
        _recorders.remove(recorder)


@contextmanager
def run(
    job: str,
    inputs: Iterable[Dataset] = (),
    *,
    reads: Iterable[Dataset] = (),
    writes: Iterable[Dataset] = (),
    id: str | None = None,
) -> Iterator[Run]:
    """Records the block as one execution of `job`: START at the beginning; COMPLETE, FAIL or ABORT at the end.

    Name in `reads` and `writes` what the run adds to its inputs and outputs only later: a graph of jobs then
    has them from the start, and keeps them if the run fails.

    A run inside another is its child. A KeyboardInterrupt, SystemExit or GeneratorExit is an ABORT; any other
    exception is a FAIL. Both are raised again.
    """
    new_run = Run(
        job, id or new_id(), _current.get(), now(), list(inputs), reads=tuple(reads), writes=tuple(writes)
    )
    token = _current.set(new_run)
    _report(RunEvent("START", new_run, new_run.started))
    try:
        yield new_run
    except BaseException as error:
        new_run.ended = now()
        _report(RunEvent("FAIL" if isinstance(error, Exception) else "ABORT", new_run, new_run.ended, error))
        raise
    else:
        new_run.ended = now()
        _report(RunEvent("COMPLETE", new_run, new_run.ended))
    finally:
        _current.reset(token)


def current_run() -> Run | None:
    """The innermost run of this context, if any."""
    return _current.get()


def _report(event: RunEvent) -> None:
    for recorder in tuple(_recorders):
        recorder.record(event)
