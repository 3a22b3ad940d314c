"""ingest: moves events from the log into the topics' tables and the online state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from time import perf_counter

import pyarrow as pa

from headrace.alerts.watch import AlertWatch
from headrace.declare.event import Contract
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.ingest import IngestHooks, Progress, Sink, ingest_all
from headrace.events.ingest.refusals import RefusalSource
from headrace.features.online.follow import OnlineSink
from headrace.flows.events.code_watch import CodeWatch
from headrace.flows.events.ingest_report import IngestReport
from headrace.flows.events.schema_registry import open_schema_registry
from headrace.kernel.run import record_with
from headrace.serving.topics import system_contracts
from headrace.workspace import Workspace

__all__ = ["ingest"]


def ingest(
    workspace: Workspace,
    topics: Sequence[str] = (),
    *,
    until_end: bool = False,
    history_until: datetime | None = None,
    stop: threading.Event | None = None,
    end_on_newer_code: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    on_ready: Callable[[], None] = lambda: None,
    on_alive: Callable[[], None] = lambda: None,
) -> IngestReport:
    """Ingests the topics (default: every topic with a contract), each event exactly once, also over kill -9.

    Args:
        workspace: the project to work on.
        topics: the topics to ingest.
        until_end: return when the events that are on the log now are in the tables; else run until `stop`.
        history_until: events that arrived before it count as history (events.verdicts.judge.Judge).
        stop: set it in another thread to end the work after the present batch.
        end_on_newer_code: raise NewerCode when the project has newer code, for a caller that then restarts.
        progress: called with each commit, from the topics' threads.
        on_ready: called once, when this process or another follows every topic.
        on_alive: called every second, until the ingest of a topic hangs.

    Raises:
        CallError: a topic has no contract.
        ProjectError: a contract forwards events, and the log is not on Kafka.
        Refused: a topic was deleted and created again since its table last read it.
        Unavailable: the log, the lake or the online store cannot be reached.
        NewerCode: see `end_on_newer_code`.
    """
    started = perf_counter()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool would keep the memory of a maintenance
    stop = stop or threading.Event()
    report = IngestReport()
    with _Session(workspace, topics, stop) as session:
        if end_on_newer_code:
            session.watch_code()

        def note_commit(commit: Progress) -> None:
            report.add(commit)
            session.refusals.note_commit(commit.topic)
            progress(commit)

        ingest_all(
            session.contracts,
            session.log,
            session.lake,
            until_end=until_end,
            history_until=history_until,
            stop=stop,
            open_sinks=session.open_sinks,
            hooks=IngestHooks(note_commit, on_ready, on_alive),
            schema_registry=open_schema_registry(workspace.settings),
        )
    session.check_code()
    report.seconds = perf_counter() - started
    return report


class _Session:
    """The resources of one ingest, which are closed at the end of its block.

    Attributes:
        contracts: the contracts of the topics to ingest.
        log, lake: the log and the lake of the project.
        refusals: the source of alerts about refused events.
    """

    def __init__(self, workspace: Workspace, topics: Sequence[str], stop: threading.Event) -> None:
        self._topics, self._stop = topics, stop
        self._workspace, self._project = workspace, workspace.project
        self.contracts = [self._project.contract(name) for name in topics]
        self._code_watch: CodeWatch | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Session:
        with ExitStack() as stack:
            recorder = self._workspace.lineage.recorder()
            self.log, self.lake = self._workspace.log, self._workspace.lake
            self._online = self._workspace.online
            system = system_contracts()
            declared = [*self._project.contracts, *(contract.topic for contract in system)]
            if not self._topics:
                existing = [contract for contract in system if contract.topic in self.log.topics()]
                self.contracts = [*self._project.contracts.values(), *existing]
            stack.enter_context(record_with(recorder))
            self.refusals = RefusalSource(self.contracts, self.log, self.lake, declared)
            stack.enter_context(AlertWatch([self.refusals], self.log, self.lake))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open_sinks(self, contract: Contract) -> list[Sink]:
        """A topic's sinks. Raises ProjectError if it forwards events and the log is not on Kafka."""
        sinks: list[Sink] = [OnlineSink(self._project, contract, self._online, self.lake)]
        if contract.forward is not None:
            sinks.append(self._stack.enter_context(closing(ForwardSink(contract, self.log))))
        return sinks

    def watch_code(self) -> None:
        """Ends the ingest when there is newer code."""
        watch = CodeWatch(self._project, self.contracts, self.lake, self._online, self._stop)
        self._code_watch = self._stack.enter_context(watch)

    def check_code(self) -> None:
        """Raises NewerCode if the ingest ended because of newer code."""
        if self._code_watch is not None:
            self._code_watch.check()
