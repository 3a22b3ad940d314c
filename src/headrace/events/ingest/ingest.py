"""Ingest: log → verdicts → the topic's table, and the sinks behind it; each event exactly once.

One commit stores the rows of a batch, good and refused, together with the log position after them. So a process
that is killed at any point continues from the last commit. Several processes divide a topic's log partitions
(headrace.events.ingest.share). For a moment two may read the same partition: then one of them gets a Conflict
for its batch, and restarts from the table.

A leading sink is fed each batch as soon as it is judged (headrace.events.ingest.sinks). The table has fewer
commits: judged batches gather for one.
"""

from __future__ import annotations

import contextvars
import logging
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from msgspec.structs import replace

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.shape import shape_of
from headrace.events.ingest.adoption import adopt_contract
from headrace.events.ingest.commit import commit
from headrace.events.ingest.gathering import Gathering, JudgedBatch, has_replays
from headrace.events.ingest.hooks import Heartbeat, IngestHooks
from headrace.events.ingest.judging import TopicJudge
from headrace.events.ingest.maintenance import IngestMaintenance
from headrace.events.ingest.position import read_position
from headrace.events.ingest.progress import Progress, RunTotals
from headrace.events.ingest.reader import ReadSpan, TopicReader
from headrace.events.ingest.share import TopicShare
from headrace.events.ingest.sinks import Sink, SinkFeed
from headrace.events.verdicts.judge import Verdicts
from headrace.kernel.errors import Conflict, HeadraceError, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake, LakeTable, Unwritable
from headrace.log import Batch, Log

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["Ingest", "IngestHooks", "Progress", "Sink", "ingest_all"]

BATCH = 125_000  # events; large enough for large files, small enough that reading overlaps writing
TRICKLE = 5_000  # a batch below this is followed by a pause, so that events gather for one commit
PAUSE = 0.2  # seconds
LEAD_PAUSE = 1.0  # seconds: commits disturb the sinks that lead, and where all do, nobody waits for one
TICK = 0.02  # seconds between two batches that a leading sink is fed
RETRY = 2.0  # seconds, at most, between attempts while something is unavailable
READY_SECONDS = 5.0  # an ingest without partitions is ready after this: other processes may read the topic

_logger = logging.getLogger(__name__)


class Ingest:
    """Ingests one topic.

    The topic and its table are created if they do not exist. One thread at a time may use it.

    Args:
        contract: the topic's contract.
        log: the log that holds the topic.
        lake: the lake that holds its table.
        sinks: further receivers of its events.
        schema_registry: holds the schemas that its events name, if their format needs them.
        history_until: events that arrived before it count as history (Judge).

    Attributes:
        contract: the contract.
        table: the topic's table.

    Raises:
        ProjectError: the contract's format needs a registry.
        Refused: the topic was created again since the table last read it, or it ends before the table's
            position; or the table cannot change to this contract (events.ingest.adoption). The remedy says what
            to do.
    """

    def __init__(
        self,
        contract: Contract,
        log: Log,
        lake: Lake,
        sinks: Sequence[Sink] = (),
        schema_registry: SchemaRegistry | None = None,
        history_until: datetime | None = None,
    ) -> None:
        self.contract = contract
        self._log = log
        log.create(contract.topic, contract.partitions, contract.retention)
        event_format = formats.open(contract, schema_registry)
        self.table: LakeTable = adopt_contract(contract, lake)
        self._share = TopicShare(contract, log, self.table)
        self._judge = TopicJudge(
            contract, event_format, log, self.table, self._share, self._await_commit, history_until
        )
        self._feeds = [SinkFeed(sink, contract, self.table, log) for sink in sinks]
        self._writing: Future[Progress] | None = None
        self._gathering = Gathering()
        self._reader = TopicReader(contract, log, self.table, self._share)
        self._must_restart = False
        self._first_snapshot = self.table.current_snapshot()

    @property
    def position(self) -> LogPosition:
        """How far the table has read the log, including the batch that is being written."""
        return self._reader.position

    def step(self) -> Progress | None:
        """Reads, judges and commits one batch, and feeds the sinks; None if there is nothing new.

        It reads the whole topic: unlike `run`, it does not share the topic with other processes.

        Raises:
            Conflict: another process ingests this topic. Call again: the next call continues from the table.
            Unavailable: the log, the lake or a sink cannot be reached.
            Unwritable: a batch cannot be stored, and no single event is the cause.
        """
        try:
            if self._must_restart:
                self._restart()
            read = self._reader.read(BATCH)
            progress = None if read is None else self._store(self._judge.judge(*read), *self._keep_raw(*read))
        except Unwritable as error:
            self._restart()
            self._judge.start_search(error)
            return self.step()
        except HeadraceError:
            self._restart()
            raise
        except BaseException:
            self._must_restart = True
            raise
        if read is None:
            self._catch_up()
        for feed in self._feeds:
            if feed.behind is not None:
                raise feed.behind
        return progress

    def run(self, until_end: bool, stop: threading.Event, hooks: IngestHooks = IngestHooks()) -> None:  # noqa: B008
        """Ingests until stopped, or until the table and the sinks have all that the log held at the call.

        All processes that run this for a topic share its partitions. While a batch is being written the next
        is read and judged. When stopped, it finishes the batch that is being written and leaves the rest on the
        log.

        Args:
            until_end: return at the end that the log had at the call.
            stop: set to stop.
            hooks: called on progress.

        Raises:
            Unavailable: only with `until_end`; otherwise it tries again until it is stopped.
            Unwritable: a batch cannot be stored, and no single event is the cause.
        """
        end = self._log.end(self.contract.topic) if until_end else None
        topic = self.contract.topic
        with (
            run(f"ingest {topic}", [self._source()], writes=[self._target()]) as this_run,
            ThreadPoolExecutor(1, "ingest-write") as writer,
            IngestMaintenance(self.table) as maintenance,
            ExitStack() as stack,
        ):
            loop = _Loop(hooks, RunTotals(this_run), maintenance, writer, stop)
            stack.enter_context(self._share.join(lambda: self._settle(loop)))
            while not stop.is_set():
                try:
                    self._run_loop(end, loop)
                    if until_end:
                        maintenance.finish_run()
                    return
                except Unwritable as error:
                    self._must_restart = True
                    self._judge.start_search(error)
                except (Conflict, Unavailable) as error:
                    if isinstance(error, Unavailable) and until_end:
                        raise
                    _logger.warning("ingest of %s restarts from the table: %s", topic, error)
                    loop.report_ready()
                    self._must_restart = True
                    hooks.on_alive()
                    stop.wait(random.uniform(0.05, RETRY))  # noqa: S311 - so that two processes do not collide again

    def _source(self) -> Dataset:
        """The topic, for lineage."""
        schema = {field.name: str(field.type) for field in shape_of(self.contract).schema}
        return Dataset("topic", self.contract.topic, self.position, {"schema": schema})

    def _target(self) -> Dataset:
        """The topic's table as it was before, for lineage: each column is a field of the contract."""
        source, snapshot = self._source(), self._first_snapshot
        position = None if snapshot is None else SnapshotPosition(self.table.name, snapshot.id)
        columns = {name: [f"{source.name}.{name}"] for name in source.facts["schema"]}
        return Dataset("table", self.table.name, position, {**source.facts, "columns": columns})

    def _run_loop(self, end: dict[int, int] | None, loop: _Loop) -> None:
        """Ingests batch after batch until stopped or at the end, and always waits for the last write."""
        try:
            while True:
                started = monotonic()
                loop.hooks.on_alive()
                reach("ingest.before_next_batch")
                if self._share.refresh() or self._must_restart:
                    self._commit_gathered(loop)
                    self._finish_commit(loop)
                    self._restart()
                if self._share.partitions or monotonic() > loop.ready_at:
                    loop.report_ready()
                is_done = loop.stop.is_set() or (end is not None and self._reader.has_reached(end))
                read = None if is_done else self._reader.read(BATCH)
                if end is None and not is_done and self._lead(read, loop):
                    loop.stop.wait(max(TICK / 4, started + TICK - monotonic()))
                    continue
                self._commit_gathered(loop)
                verdicts = None if read is None else self._judge.judge(*read)
                self._finish_commit(loop)
                if read is not None and verdicts is not None:
                    context = contextvars.copy_context()
                    batch, span = self._keep_raw(*read)
                    read = None  # frees the records while they are written
                    self._writing = loop.writer.submit(context.run, self._store, verdicts, batch, span)
                    if verdicts.rows.num_rows < TRICKLE:
                        self._finish_commit(loop)
                        loop.stop.wait(max(0.0, started + PAUSE - monotonic()))
                    continue
                self._catch_up()
                if loop.stop.is_set() or (end is not None and self._reader.has_reached(end)):
                    break
                loop.totals.report_running()
                self._share.wait(self._reader.offsets(), loop.stop, PAUSE)
            if end is not None:
                self._catch_up_with_table()
        finally:
            self._await_commit()
            self._writing = None
            self._gathering.clear()

    def _lead(self, read: tuple[Batch, ReadSpan] | None, loop: _Loop) -> bool:
        """Judges a batch, feeds it to the leading sinks, and commits what has gathered if it is time.

        Returns:
            Whether it did so. Otherwise the batch is judged and committed at once: no sink may lead, the batch
            is large, or its verdicts could differ if its events were read again in other batches. Without a
            batch: whether anything waits for its commit.
        """
        if read is None:
            if not len(self._gathering) and (self._writing is None or not self._may_lead()):
                return False
        elif len(read[0]) < TRICKLE and self._may_lead() and not has_replays(read[0]):
            verdicts = self._judge.judge(*read)
            self._gathering.add(JudgedBatch(verdicts, *self._keep_raw(*read)))
            for feed in self._feeds:
                if feed.may_lead:
                    feed.lead(*self._gathering.uncommitted())
            reach("ingest.led")
        else:
            return False
        if self._writing is not None and (self._writing.done() or len(self._gathering) >= TRICKLE):
            self._finish_commit(loop)
        pause = LEAD_PAUSE if all(feed.may_lead for feed in self._feeds) else PAUSE
        if self._writing is None and self._gathering.is_due(TRICKLE, pause):
            self._write_gathered(loop)
        return True

    def _may_lead(self) -> bool:
        """Whether a sink may lead with a batch that is judged now."""
        return not self._share.mixes_identities and any(feed.may_lead for feed in self._feeds)

    def _restart(self) -> None:
        """Restarts from the table's position, as a new process would.

        If the position cannot be read, the ingest must restart later: its old position could carry sinks past
        rows that are not in the table.
        """
        self._must_restart = True
        self._gathering.clear()
        for feed in self._feeds:
            feed.restart()
        self._judge.reset()
        self._reader.restart()
        self._must_restart = False

    def _finish_commit(self, loop: _Loop) -> None:
        """Waits for the batch that is being written, if any, and reports it."""
        if self._writing is not None:
            progress = self._writing.result()
            self._writing = None
            self._gathering.note_commit()
            loop.report_commit(progress)

    def _commit_gathered(self, loop: _Loop) -> None:
        """Begins to commit the batches that have gathered, if any."""
        if len(self._gathering):
            self._finish_commit(loop)
            self._write_gathered(loop)

    def _write_gathered(self, loop: _Loop) -> None:
        context, (verdicts, batch, span) = contextvars.copy_context(), self._gathering.take()
        self._writing = loop.writer.submit(context.run, self._store, verdicts, batch, span)

    def _settle(self, loop: _Loop) -> None:
        """Commits what is judged, before others read on. Its outcome is in the future that is left."""
        self._await_commit()
        if len(self._gathering) and (self._writing is None or self._writing.exception() is None):
            self._finish_commit(loop)
            self._write_gathered(loop)
            self._await_commit()

    def _await_commit(self) -> None:
        """Waits for the batch that is being written, if any; its outcome is in its future."""
        if self._writing is not None:
            wait([self._writing])

    def _keep_raw(self, batch: Batch, span: ReadSpan) -> tuple[Batch | None, ReadSpan]:
        """The arguments, without the records unless a sink needs them: they take much memory."""
        return batch if any(feed.is_raw for feed in self._feeds) else None, span

    def _store(self, verdicts: Verdicts, batch: Batch | None, span: ReadSpan) -> Progress:
        snapshot = commit(self.table, self.contract, verdicts, span)
        self._judge.end_search()
        for feed in self._feeds:
            feed.follow(verdicts, batch, span)
        return Progress(
            self.contract.topic,
            verdicts.rows.num_rows,
            verdicts.good,
            verdicts.refused,
            span.after,
            snapshot.id,
            verdicts.extra,
            span.lost,
        )

    def _catch_up(self) -> None:
        """Feeds sinks that are behind up to the position of this share, while nothing is being written."""
        for feed in self._feeds:
            feed.catch_up(self.position.for_partitions(self._share.partitions))

    def _catch_up_with_table(self) -> None:
        """Feeds sinks up to the whole table's position: the process of another share may have died before it
        fed them."""
        stored = read_position(self.table)
        for feed in self._feeds:
            if stored is not None:
                feed.catch_up(stored)
            if feed.behind is not None:
                raise feed.behind


class _Loop:
    """The collaborators of one run of an ingest, and where it reports progress."""

    def __init__(
        self,
        hooks: IngestHooks,
        totals: RunTotals,
        maintenance: IngestMaintenance,
        writer: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> None:
        self.hooks, self.totals, self.writer, self.stop = hooks, totals, writer, stop
        self._maintenance = maintenance
        self._is_ready = False
        self.ready_at = monotonic() + READY_SECONDS

    def report_commit(self, progress: Progress) -> None:
        """Reports a commit to the run, to maintenance and to the caller."""
        self.totals.add(progress)
        self._maintenance.count_commit()
        self.hooks.on_commit(progress)

    def report_ready(self) -> None:
        """Reports, once, that the ingest is ready."""
        if not self._is_ready:
            self._is_ready = True
            self.hooks.on_ready()


def ingest_all(
    contracts: Iterable[Contract],
    log: Log,
    lake: Lake,
    *,
    until_end: bool,
    stop: threading.Event,
    open_sinks: Callable[[Contract], Sequence[Sink]] = lambda _: (),
    schema_registry: SchemaRegistry | None = None,
    history_until: datetime | None = None,
    hooks: IngestHooks = IngestHooks(),  # noqa: B008 - it is frozen
) -> None:
    """Ingests several topics in this process, with a thread for each, until stopped or at their ends.

    Args:
        contracts: the contracts of the topics.
        log, lake, until_end, stop, schema_registry, history_until: as for Ingest and Ingest.run.
        open_sinks: opens the sinks of a topic.
        hooks: `on_commit` is called from the topics' threads; `on_ready` once, when every topic is ready;
            `on_alive` every second, until the ingest of a topic hangs (Heartbeat).

    Raises:
        HeadraceError: the error of the first topic that failed; the other topics have stopped too.
    """
    ingests = [Ingest(c, log, lake, open_sinks(c), schema_registry, history_until) for c in contracts]
    waiting, lock = len(ingests), threading.Lock()

    def count_ready() -> None:
        nonlocal waiting
        with lock:
            waiting -= 1
            is_last = waiting == 0
        if is_last:
            hooks.on_ready()

    def run_one(ingest: Ingest) -> None:
        topic = ingest.contract.topic
        topic_hooks = replace(hooks, on_ready=count_ready, on_alive=lambda: heartbeat.beat(topic))
        try:
            ingest.run(until_end, stop, topic_hooks)
        except BaseException:
            stop.set()
            raise
        finally:
            heartbeat.end(topic)

    with (
        Heartbeat(hooks.on_alive) as heartbeat,
        ThreadPoolExecutor(max(1, len(ingests)), "ingest") as threads,
    ):
        context = contextvars.copy_context()
        futures = [threads.submit(context.copy().run, run_one, ingest) for ingest in ingests]
        try:
            wait(futures)
        except BaseException:
            stop.set()  # the block's end waits for the threads
            raise
        for future in futures:
            future.result()
