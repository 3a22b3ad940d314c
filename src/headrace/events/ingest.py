"""Ingest: log → verdicts → the topic's table, and the sinks behind it; each event exactly once.

One commit carries the rows of a batch, good and refused, and the position they bring the table to. So
a process killed anywhere goes on from what the last commit says, and of two that ingest the same
topic one loses its batch to a Conflict and begins again from the table.
"""

from __future__ import annotations

import contextvars
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic

import polars as pl

from headrace.declare.event import Contract
from headrace.events.facts import ARRIVED, CLOCK, EXTRA, POSITION
from headrace.events.judge import NAMES, First, Judge, Verdicts
from headrace.events.rates import arrivals
from headrace.events.shape import table_schema
from headrace.events.sinks import Feed, Sink
from headrace.kernel.errors import Conflict, HeadraceError, ProjectError, Refused, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.run import Dataset, Run, run
from headrace.lake import Lake, LakeTable
from headrace.lake.upkeep import keep
from headrace.log import Batch, Log

__all__ = ["CLOCK", "EXTRA", "POSITION", "Ingest", "Progress", "Sink", "ingest_all"]

BATCH = 125_000  # events; large enough for large files, small enough that reading overlaps writing
TRICKLE = 5_000  # a batch below this is followed by a pause, so that events gather to a commit
PAUSE = 0.2  # seconds
RETRY = 2.0  # seconds, at most, before what was unavailable is tried again
KEEP = 200  # commits, after which the table's small files are put together, beside the work
FILES = 200  # files of the table, from which on a run until the log's end does so too

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What one commit did.

    Attributes:
        topic: the topic.
        events: how many events it carried.
        good: how many of them are good.
        refused: code → how many.
        position: how far the topic's table has read the log with it.
        snapshot: the table's snapshot.
        extra: field that the contract does not name → how many events carried it (Verdicts.extra).
    """

    topic: str
    events: int
    good: int
    refused: Counter[str]
    position: LogPosition
    snapshot: int
    extra: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Judged:
    verdicts: Verdicts
    before: LogPosition
    after: LogPosition
    batch: Batch | None


class Ingest:
    """Ingests one topic.

    The topic and its table are made if they are not there. One thread at a time may use it.

    Args:
        contract: the topic's.
        log: where its events come from.
        lake: where its table is.
        sinks: what else takes its good events.

    Raises:
        Refused: the topic was made again since the table last read it, or its end lies before what
            the table has read; the remedy says what to do.
    """

    def __init__(self, contract: Contract, log: Log, lake: Lake, sinks: Sequence[Sink] = ()) -> None:
        self.contract = contract
        self._log = log
        log.create(contract.topic, contract.partitions)
        self.table: LakeTable = lake.ensure(
            contract.table, table_schema(contract), [("_valid", "identity"), (contract.time, "day")]
        )
        self._feeds = [Feed(sink, contract, self.table, log) for sink in sinks]
        self._pending: Future[Progress] | None = None
        self._begin()

    @property
    def position(self) -> LogPosition:
        """How far the table has read the log, what is being written included."""
        return self._read

    def step(self) -> Progress | None:
        """One batch: read, judged, committed, given to the sinks. None where there is nothing new.

        Raises:
            Conflict: another process ingests this topic; call again, it goes on from the table.
            Unavailable: log, lake or a sink is away.
        """
        try:
            judged = self._next()
            progress = None if judged is None else self._store(judged)
        except HeadraceError:
            self._begin()
            raise
        if judged is None:
            self._level()
        for feed in self._feeds:
            if feed.behind is not None:
                raise feed.behind
        return progress

    def run(
        self,
        until_end: bool,
        stop: threading.Event,
        tell: Callable[[Progress], None] | None = None,
    ) -> None:
        """Ingests until `stop`, or until what the log held at the call is in the table and the sinks.

        While one batch is being written the next is read and judged. When stopped it finishes the
        batch that is being written and leaves the rest on the log.

        Args:
            tell: called with each commit's progress, in this thread.

        Raises:
            Unavailable: only with `until_end`; without, it tries again until it is stopped.
        """
        end = self._log.end(self.contract.topic) if until_end else None
        topic = Dataset("topic", self.contract.topic, self._read)
        with (
            run(f"ingest {self.contract.topic}", [topic]) as this,
            ThreadPoolExecutor(1, "ingest-write") as writer,
            _Upkeep(self.table) as upkeep,
        ):
            report = _Report(this, self.table.name, upkeep, tell)
            while not stop.is_set():
                try:
                    self._flow(end, stop, writer, report)
                    if until_end:
                        upkeep.ended()
                    return
                except (Conflict, Unavailable) as error:
                    if isinstance(error, Unavailable) and until_end:
                        raise
                    _logger.warning("ingest of %s begins again: %s", self.contract.topic, error)
                    stop.wait(random.uniform(0.05, RETRY))  # noqa: S311 - so that two don't meet again
                    self._try_to_begin()

    def _flow(
        self, end: dict[int, int] | None, stop: threading.Event, writer: ThreadPoolExecutor, report: _Report
    ) -> None:
        """Batch after batch until stopped or at the end; a batch in flight is always waited for."""
        try:
            while True:
                began = monotonic()
                reach("ingest.before_next_batch")
                judged = None if stop.is_set() or self._covers(end) else self._next()
                if self._pending is not None:
                    report.add(self._pending.result())
                if judged is not None:
                    self._pending = writer.submit(contextvars.copy_context().run, self._store, judged)
                    if judged.verdicts.rows.num_rows < TRICKLE:
                        report.add(self._pending.result())
                        self._pending = None
                        stop.wait(max(0.0, began + PAUSE - monotonic()))
                    continue
                self._pending = None
                self._level()
                if stop.is_set() or self._covers(end):
                    break
                report.running()
                self._log.wait(self.contract.topic, self._offsets(), PAUSE)
            for feed in self._feeds:
                if end is not None and feed.behind is not None:
                    raise feed.behind
        finally:
            if self._pending is not None:
                wait([self._pending])
                self._pending = None

    def _begin(self) -> None:
        """Starts from what the table says, as a new process would."""
        self._judge: Judge | None = None
        identity = self._log.identity(self.contract.topic)
        stored = self.table.position(POSITION)
        here = f"table {self.table.name}, topic {self.contract.topic}"
        if stored is None:
            stored = LogPosition(self.contract.topic, identity)
        if not isinstance(stored, LogPosition) or stored.log_id != identity:
            raise Refused(
                "the topic was made again since this table last read it: its offsets mean other events now",
                where=here,
                remedy="Point the profile's log at the one it read before; or drop the table to begin anew.",
            )
        ends = self._log.end(self.contract.topic)
        for partition, offset in stored.offsets.items():
            if offset > ends.get(partition, 0):
                raise Refused(
                    f"the table has read log partition {partition} up to {offset}, but the log ends at "
                    f"{ends.get(partition, 0)}: an older copy of it was put back",
                    where=here,
                    remedy="Put the newer log back; or drop the table to begin anew.",
                )
        self._start = self._log.start(self.contract.topic)
        for partition, start in self._start.items():
            if start > stored.next_offset(partition):
                _logger.warning(
                    "topic %s: log partition %d was trimmed to %d, but read only up to %d: the rest is gone",
                    self.contract.topic, partition, start, stored.next_offset(partition),
                )  # fmt: skip
        self._read = stored
        self._passed: dict[int, int] = {}
        self._clock = int(self.table.property(CLOCK) or 0)
        self._extra: Counter[str] = Counter(json.loads(self.table.property(EXTRA) or "{}"))

    def _try_to_begin(self) -> None:
        try:
            self._begin()
        except Unavailable as error:
            _logger.warning("ingest of %s waits: %s", self.contract.topic, error)

    def _offsets(self) -> dict[int, int]:
        """Where to read next: what the table says, or where a trimmed log begins, or past offsets that
        hold no record (Kafka's markers of transactions)."""
        return {
            p: max(self._read.next_offset(p), self._start.get(p, 0), self._passed.get(p, 0))
            for p in range(self._log.partitions(self.contract.topic))
        }

    def _covers(self, end: dict[int, int] | None) -> bool:
        if end is None:
            return False
        offsets = self._offsets()
        return all(offsets[p] >= offset for p, offset in end.items())

    def _next(self) -> _Judged | None:
        """Reads and judges the next batch; None at the end of the log."""
        batch = self._log.read(self.contract.topic, self._offsets(), BATCH)
        if not len(batch):
            self._passed = batch.next
            return None
        if self._judge is None:
            self._judge = self._made_judge()
        before, self._read = self._read, self._read.advanced(batch.next)
        kept = batch if any(feed.raw for feed in self._feeds) else None
        return _Judged(self._judge.judge(batch), before, self._read, kept)

    def _store(self, judged: _Judged) -> Progress:
        verdicts = judged.verdicts
        self._clock = max(self._clock, verdicts.latest)
        facts = {"headrace.arrived_at": str(self._clock)}
        properties = {CLOCK: str(self._clock)}
        arrived = arrivals(verdicts.rows, self.contract)
        if arrived is not None:
            facts[ARRIVED] = arrived
        if verdicts.extra:
            self._extra += verdicts.extra
            facts[EXTRA] = json.dumps(verdicts.extra)
            properties[EXTRA] = json.dumps(dict(self._extra.most_common(NAMES)))
        snapshot = self.table.append(
            verdicts.rows,
            position=(POSITION, judged.before, judged.after),
            facts=facts,
            properties=properties,
        )
        for feed in self._feeds:
            feed.follow(verdicts, judged.batch, judged.before, judged.after)
        return Progress(
            self.contract.topic,
            verdicts.rows.num_rows,
            verdicts.good,
            verdicts.refused,
            judged.after,
            snapshot.id,
            verdicts.extra,
        )

    def _level(self) -> None:
        """Brings sinks that are behind level with the table. Nothing is being written meanwhile."""
        for feed in self._feeds:
            feed.catch_up(self._read)

    def _made_judge(self) -> Judge:
        """A judge that remembers what the table holds of the time in which a duplicate is refused."""
        judge = Judge(self.contract, self._admitted)
        if self.contract.within is not None:
            time = pl.col(self.contract.time)
            good = self.table.scan().filter(pl.col("_valid"))
            latest = good.select(time.max()).collect().item()
            if latest is not None:
                recent = good.filter(time >= latest - self.contract.within)
                judge.remember(
                    recent.select({*self.contract.identity, self.contract.time}).sort(time).collect()
                )
        return judge

    def _admitted(self, firsts: Collection[First]) -> set[First]:
        """Which of these first positions the table holds as good, as they came or replayed."""
        if self._pending is not None:
            wait([self._pending])  # the batch before this one counts; what went wrong with it is told later
        wanted = pl.LazyFrame(list(firsts), schema={"partition": pl.Int32, "offset": pl.Int64}, orient="row")
        good = self.table.scan().filter(pl.col("_valid"))
        own = good.select(partition="_log_partition", offset="_log_offset")
        replayed = good.filter(pl.col("_first_offset").is_not_null()).select(
            partition="_first_partition", offset="_first_offset"
        )
        found = wanted.join(pl.concat([own, replayed]), on=["partition", "offset"], how="semi").collect()
        return set(found.rows())


class _Upkeep:
    """The upkeep of the topic's table, in a thread of its own, after every KEEP commits."""

    def __init__(self, table: LakeTable) -> None:
        self._table = table
        self._commits = 0
        self._thread = ThreadPoolExecutor(1, "ingest-upkeep")
        self._kept: Future[None] | None = None

    def __enter__(self) -> _Upkeep:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()

    def committed(self) -> None:
        """Counts a commit."""
        self._commits += 1
        if self._commits >= KEEP and (self._kept is None or self._kept.done()):
            self._commits = 0
            self._kept = self._thread.submit(self._keep)

    def ended(self) -> None:
        """The log's end was reached. Many short runs gather small files as well as a long one does."""
        head = self._table.head() if self._commits else None
        if head is not None and int(head.summary.get("total-data-files", 0)) >= FILES:
            self._keep()

    def _keep(self) -> None:
        try:
            keep(self._table)
        except HeadraceError as error:  # the next one does what this one could not
            _logger.warning("upkeep of %s: %s", self._table.name, error)


class _Report:
    """What a run's recorders and its caller are told."""

    def __init__(self, this: Run, table: str, upkeep: _Upkeep, tell: Callable[[Progress], None] | None) -> None:
        self._run, self._table, self._upkeep, self._tell = this, table, upkeep, tell
        self._events = self._good = 0
        self._refused: Counter[str] = Counter()
        self._extra: Counter[str] = Counter()

    def add(self, progress: Progress) -> None:
        """Takes a commit into account."""
        self._events += progress.events
        self._good += progress.good
        self._refused += progress.refused
        self._extra += progress.extra
        facts: dict[str, object] = {
            "rows": self._events,
            "good": self._good,
            "refused": dict(self._refused),
            **({"extra": dict(self._extra)} if self._extra else {}),
        }
        made = SnapshotPosition(self._table, progress.snapshot)
        self._run.inputs[:] = [Dataset("topic", progress.topic, progress.position, {"rows": self._events})]
        self._run.outputs[:] = [Dataset("table", self._table, made, facts)]
        self.running()
        self._upkeep.committed()
        if self._tell is not None:
            self._tell(progress)

    def running(self) -> None:
        """Says that it goes on."""
        self._run.running()


def ingest_all(
    contracts: Iterable[Contract],
    log: Log,
    lake: Lake,
    *,
    until_end: bool,
    stop: threading.Event,
    sinks_of: Callable[[Contract], Sequence[Sink]] | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> None:
    """Ingests several topics in this process, a thread each, until stopped or at their ends.

    Args:
        sinks_of: a topic's sinks.
        tell: called with each commit's progress, from the topics' threads.

    Raises:
        HeadraceError: what one of them raised; the others have then stopped too.
    """
    contracts = list(contracts)
    tables: dict[str, str] = {}
    for contract in contracts:
        other = tables.setdefault(contract.table, contract.topic)
        if other != contract.topic:
            raise ProjectError(
                f"topics {other!r} and {contract.topic!r} would share the table {contract.table!r}",
                where=str(contract.place),
                remedy="Name one of them otherwise.",
            )
    ingests = [Ingest(c, log, lake, sinks_of(c) if sinks_of else ()) for c in contracts]

    def one(ingest: Ingest) -> None:
        try:
            ingest.run(until_end, stop, tell)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max(1, len(ingests)), "ingest") as threads:
        context = contextvars.copy_context()
        futures = [threads.submit(context.copy().run, one, ingest) for ingest in ingests]
        try:
            wait(futures)
        except BaseException:
            stop.set()  # the block's end waits for the threads
            raise
        for future in futures:
            future.result()
