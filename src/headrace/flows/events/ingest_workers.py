"""Ingests with several processes on this machine, which divide the topics' log partitions."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from time import perf_counter
from typing import TYPE_CHECKING, Any

from headrace.config.settings import Settings
from headrace.events.ingest.progress import Progress
from headrace.flows.events.ingest import ingest
from headrace.flows.events.ingest_report import IngestReport
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.memory import freeze_objects
from headrace.workspace import Workspace

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["ingest_by_workers"]

_INTERVAL = 0.2  # seconds between two checks of `stop`


def ingest_by_workers(
    workspace: Workspace,
    topics: Sequence[str],
    workers: int,
    *,
    until_end: bool = False,
    history_until: datetime | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> IngestReport:
    """Ingests like `flows.events.ingest`, in `workers` processes, which end when this process ends.

    Raises:
        CallError: no topic has so many log partitions.
        Unavailable: a worker died, and the others were stopped. The next call continues.
        HeadraceError: the error of a worker; the others were stopped.
    """
    started = perf_counter()
    _check(workspace, topics, workers)
    stop = stop or threading.Event()
    running = [
        _Worker(workspace.settings, topics, until_end, history_until, number)
        for number in range(1, workers + 1)
    ]
    report = IngestReport()
    failed: BaseException | None = None
    while running:
        if stop.is_set() or failed is not None:
            for worker in running:
                worker.terminate()
        readable = wait([worker.pipe for worker in running], _INTERVAL)
        for worker in [worker for worker in running if worker.pipe in readable]:
            message = worker.receive()
            if isinstance(message, Progress):
                report.add(message)
                progress(message)
            else:
                failed = failed or message
                running.remove(worker)
    if failed is not None:
        raise failed
    report.seconds = perf_counter() - started
    return report


def _check(workspace: Workspace, topics: Sequence[str], workers: int) -> None:
    project, log = workspace.project, workspace.log
    contracts = [project.contract(name) for name in topics] or list(project.contracts.values())
    topics_on_log = log.topics()
    most = max(
        log.partitions(contract.topic) if contract.topic in topics_on_log else contract.partitions
        for contract in contracts
    )
    if workers > most:
        raise CallError(
            f"no topic has {workers} log partitions to divide: the most is {most}",
            where=f"--workers {workers}",
            remedy="Ask for fewer workers; or make the topic with more: @event(partitions=...).",
        )


class _Worker:
    """One of the processes, and the pipe by which it reports its work and is asked to end."""

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        until_end: bool,
        history_until: datetime | None,
        number: int,
    ) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawning.Pipe()
        self._asked = False
        self.process: BaseProcess = spawning.Process(
            target=_work,
            args=(settings, tuple(topics), until_end, history_until, theirs),
            name=f"ingest worker {number}",
        )
        # The process inherits the mask, so a Ctrl-C during its start waits until `_work` ignores it. A start of
        # the resource tracker would end the block, so it runs already.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def terminate(self) -> None:
        """Asks the process to finish its batch and end."""
        if not self._asked:
            self._asked = True
            with suppress(ConnectionError):  # it has ended already
                self.pipe.send(None)

    def receive(self) -> Progress | BaseException | None:
        """The next message: a commit, or how the process ended: an error, or None for success."""
        try:
            message: Any = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            message = Unavailable(
                f"{self.process.name} died (exit {self.process.exitcode})",
                remedy="Nothing is lost: run it again, and it continues from the last commit.",
            )
        if not isinstance(message, Progress):
            self.process.join()
            self.pipe.close()
        ended: Progress | BaseException | None = message
        return ended


def _work(
    settings: Settings,
    topics: Sequence[str],
    until_end: bool,
    history_until: datetime | None,
    pipe: Connection[Any, Any],
) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes; the parent decides what it means
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    stop, lock = threading.Event(), threading.Lock()

    def await_end() -> None:
        with suppress(EOFError):  # the parent process has ended
            pipe.recv()
        stop.set()

    def report(message: Progress | BaseException | None) -> None:
        with lock, suppress(BrokenPipeError):  # then `await_end` ends the work
            pipe.send(message)

    threading.Thread(target=await_end, daemon=True).start()
    try:
        with Workspace(settings) as workspace:
            ingest(
                workspace,
                topics,
                until_end=until_end,
                history_until=history_until,
                stop=stop,
                progress=report,
                on_ready=freeze_objects,
            )
    except BaseException as error:
        report(error)
    else:
        report(None)
