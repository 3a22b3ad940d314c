"""Ingest: log → verdicts → the topic's table, and the sinks behind it; each event exactly once.

One commit carries the rows of a batch, good and refused, and the position they bring the table to. So
a process killed anywhere goes on from what the last commit says. Several processes divide a topic's log
partitions (headrace.events.ingest.share). For a moment two may hold the same one: then one of them loses its
batch to a Conflict and begins again from the table.
"""

from __future__ import annotations

import contextvars
import json
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headrace.declare.event import Contract
from headrace.events import formats
from headrace.events.contracts.shape import shape_of
from headrace.events.formats.refusals import Refusal
from headrace.events.ingest.adoption import adopted
from headrace.events.ingest.culprits import find_culprits, judge_batch
from headrace.events.ingest.maintenance import IngestMaintenance
from headrace.events.ingest.position import READER, stored_position
from headrace.events.ingest.progress import Progress, Report
from headrace.events.ingest.rates import count_arrivals
from headrace.events.ingest.rows import recent_rows
from headrace.events.ingest.share import Share
from headrace.events.ingest.sinks import Feed, Sink
from headrace.events.verdicts.decode import MAX_EXTRA_NAMES
from headrace.events.verdicts.judge import FirstPosition, Judge, Verdicts
from headrace.events.verdicts.watermarks import Watermarks, merge_watermarks
from headrace.kernel.errors import Conflict, HeadraceError, Refused, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import LATEST_ARRIVAL, UNDECLARED_FIELDS, WATERMARKS
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake, LakeTable, Unwritable
from headrace.log import Batch, Log

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["Ingest", "Progress", "Sink", "ingest_all"]

BATCH = 125_000  # events; large enough for large files, small enough that reading overlaps writing
TRICKLE = 5_000  # a batch below this is followed by a pause, so that events gather to a commit
PAUSE = 0.2  # seconds
RETRY = 2.0  # seconds, at most, before what was unavailable is tried again

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Judged:
    """A batch's verdicts, the positions before and after it in the log partitions that it was read from,
    the batch itself where a sink wants it, and how many events, at most, the log had forgotten before it."""

    verdicts: Verdicts
    before: LogPosition
    after: LogPosition
    batch: Batch | None
    lost: int


class Ingest:
    """Ingests one topic.

    The topic and its table are made if they are not there. One thread at a time may use it.

    Args:
        contract: the topic's.
        log: where its events come from.
        lake: where its table is.
        sinks: what else takes its good events.
        schema_registry: where the schemas are that its events name, if its format has such.

    Raises:
        ProjectError: the contract's format needs a registry.
        Refused: the topic was made again since the table last read it, or its end lies before what
            the table has read; or the contract is not what the table last had, and cannot take its
            place (events.ingest.adoption). The remedy says what to do.
    """

    def __init__(
        self,
        contract: Contract,
        log: Log,
        lake: Lake,
        sinks: Sequence[Sink] = (),
        schema_registry: SchemaRegistry | None = None,
    ) -> None:
        self.contract = contract
        self._log = log
        log.create(contract.topic, contract.partitions, contract.retention)
        self._format = formats.open(contract, schema_registry)
        self.table: LakeTable = adopted(contract, lake)
        self._share = Share(contract, log, self.table)
        self._feeds = [Feed(sink, contract, self.table, log) for sink in sinks]
        self._pending: Future[Progress] | None = None
        self._suspicious = False  # whether a batch could not be judged or stored, and is read once more
        self._begin()

    @property
    def position(self) -> LogPosition:
        """How far the table has read the log, what is being written included."""
        return self._read

    def step(self) -> Progress | None:
        """One batch of the whole topic: read, judged, committed, given to the sinks. None where there
        is nothing new. It takes no part in sharing the topic, as `run` does.

        Raises:
            Conflict: another process ingests this topic; call again, it goes on from the table.
            Unavailable: log, lake or a sink is away.
            Unwritable: a batch cannot be stored, and that is no event's fault.
        """
        try:
            if not self._begun:
                self._begin()
            judged = self._next()
            progress = None if judged is None else self._store(judged)
        except Unwritable as error:
            self._begin()
            self._suspect(error)
            return self.step()
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
        at_work: Callable[[], None] | None = None,
    ) -> None:
        """Ingests until `stop`, or until what the log held at the call is in the table and the sinks,
        whoever brought it there: all who run share the topic.

        While one batch is being written the next is read and judged. When stopped it finishes the
        batch that is being written and leaves the rest on the log.

        Args:
            tell: called with each commit's progress, in this thread.
            at_work: called once, when it has its share of the topic, or has to try again (Report.say_at_work).

        Raises:
            Unavailable: only with `until_end`; without, it tries again until it is stopped.
            Unwritable: a batch cannot be stored, and that is no event's fault.
        """
        end = self._log.end(self.contract.topic) if until_end else None
        with (
            run(f"ingest {self.contract.topic}", [Dataset("topic", self.contract.topic, self._read)]) as this,
            ThreadPoolExecutor(1, "ingest-write") as writer,
            IngestMaintenance(self.table) as maintenance,
            self._share.joined(self._settle),
        ):
            report = Report(this, self.table.name, shape_of(self.contract).schema, maintenance, tell, at_work)
            while not stop.is_set():
                try:
                    self._flow(end, stop, writer, report)
                    if until_end:
                        maintenance.finish_run()
                    return
                except Unwritable as error:
                    self._begun = False
                    self._suspect(error)
                except (Conflict, Unavailable) as error:
                    if isinstance(error, Unavailable) and until_end:
                        raise
                    _logger.warning("ingest of %s begins again: %s", self.contract.topic, error)
                    report.say_at_work(True)
                    self._begun = False
                    stop.wait(random.uniform(0.05, RETRY))  # noqa: S311 - so that two don't meet again

    def _flow(
        self, end: dict[int, int] | None, stop: threading.Event, writer: ThreadPoolExecutor, report: Report
    ) -> None:
        """Batch after batch until stopped or at the end; a batch in flight is always waited for."""
        try:
            while True:
                began = monotonic()
                reach("ingest.before_next_batch")
                if self._share.moved() or not self._begun:
                    self._take_result(report)
                    self._begin()
                report.say_at_work(bool(self._share.partitions))
                judged = None if stop.is_set() or self._covers(end) else self._next()
                self._take_result(report)
                if judged is not None:
                    self._pending = writer.submit(contextvars.copy_context().run, self._store, judged)
                    if judged.verdicts.rows.num_rows < TRICKLE:
                        self._take_result(report)
                        stop.wait(max(0.0, began + PAUSE - monotonic()))
                    continue
                self._level()
                if stop.is_set() or self._covers(end):
                    break
                report.report_running()
                self._share.wait(self._offsets(), stop, PAUSE)
            if end is not None:
                self._level_all()
        finally:
            self._settle()
            self._pending = None

    def _suspect(self, error: Unwritable) -> None:
        """Has the events that could not be stored looked at one by one, once they are read again. Raises the
        error where that was done, and none of them was to blame."""
        if self._suspicious:
            raise error
        _logger.warning("topic %s: looking for the event: %s", self.contract.topic, error)
        self._suspicious = True

    def _take_result(self, report: Report) -> None:
        """Waits for the batch that is being written, if any, and reports it."""
        if self._pending is not None:
            report.add(self._pending.result())
            self._pending = None

    def _settle(self) -> None:
        """Waits for the batch that is being written; how it went is told by its result."""
        if self._pending is not None:
            wait([self._pending])

    def _begin(self) -> None:
        """Starts from what the table says, as a new process would. Where that cannot be read, nothing goes
        on from what was believed before: it would carry sinks past rows that are not in the table."""
        self._begun = False
        self._judge: Judge | None = None
        stored = _stored(self.table, self._log, self.contract.topic)
        self._read: LogPosition = stored
        self._start = self._log.start(self.contract.topic)
        self._passed: dict[int, int] = {}
        self._lost = self._forgotten({p: stored.next_offset(p) for p in self._share.partitions}, self._start)
        self._begun = True

    def _forgotten(self, read: Mapping[int, int], start: Mapping[int, int]) -> int:
        """How many events, at most, lay between what was read and where the log now begins; says so."""
        lost = 0
        for partition, offset in read.items():
            begin = start.get(partition, 0)
            if begin > offset:
                lost += begin - offset
                _logger.warning(
                    "topic %s: log partition %d was trimmed to %d, but read only up to %d: up to %d events"
                    " are lost. Keep them longer (retention=), or ingest them sooner",
                    self.contract.topic, partition, begin, offset, begin - offset,
                )  # fmt: skip
        return lost

    def _offsets(self) -> dict[int, int]:
        """Where to read next: what the table says, or where a trimmed log begins, or past offsets that
        hold no record (Kafka's markers of transactions)."""
        return {
            p: max(self._read.next_offset(p), self._start.get(p, 0), self._passed.get(p, 0))
            for p in self._share.partitions
        }

    def _covers(self, end: dict[int, int] | None) -> bool:
        if end is None:
            return False
        reached = all(offset >= end.get(p, 0) for p, offset in self._offsets().items())
        return reached and self._share.others_reached(end)

    def _next(self) -> _Judged | None:
        """Reads and judges the next batch; None at the end of the log."""
        asked = self._offsets()
        if not asked:
            return None
        batch = self._log.read(self.contract.topic, asked, BATCH)
        if self._log.identity(self.contract.topic) != self._read.log_id:
            self._begin()  # says that the topic was made again
        if not len(batch):
            self._passed = batch.next
            return None
        gaps = _gaps(asked, batch)
        if gaps:  # the log may have forgotten what lay there
            self._lost += self._forgotten(gaps, self._log.start(self.contract.topic))
        behind = self._behind(asked)
        if self._judge is None:
            self._judge = self._made_judge(behind)
        else:
            self._judge.watermarks.advance(behind)
        culprits: dict[int, Refusal] = {}
        if self._suspicious:
            culprits = find_culprits(batch, self.contract, self._format, self.table)
        verdicts = judge_batch(self._judge, batch, culprits)
        before, self._read = self._read.for_partitions(batch.next), self._read.with_offsets(batch.next)
        lost, self._lost = self._lost, 0
        kept = batch if any(feed.raw for feed in self._feeds) else None
        return _Judged(verdicts, before, self._read.for_partitions(batch.next), kept, lost)

    def _behind(self, asked: Mapping[int, int]) -> frozenset[int]:
        """The log partitions with events that are not judged yet; looked at where a mark depends on it."""
        if not self._share.mixes_identities:
            return frozenset()
        ends = self._log.end(self.contract.topic)
        return frozenset(p for p, offset in asked.items() if offset < ends.get(p, 0))

    def _store(self, judged: _Judged) -> Progress:
        verdicts = judged.verdicts
        facts, properties = _said(verdicts, self.contract)
        snapshot = self.table.append(
            verdicts.rows,
            position=(READER, judged.before, judged.after),
            facts=facts,
            properties=properties,
        )
        self._suspicious = False
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
            judged.lost,
        )

    def _level(self) -> None:
        """Brings sinks that are behind level with this share of the table. Nothing is being written
        meanwhile."""
        for feed in self._feeds:
            feed.catch_up(self._read.for_partitions(self._share.partitions))

    def _level_all(self) -> None:
        """The same with the whole table: who wrote the rest of it may have died before its sinks had it."""
        stored = stored_position(self.table)
        for feed in self._feeds:
            if isinstance(stored, LogPosition):
                feed.catch_up(stored)
            if feed.behind is not None:
                raise feed.behind

    def _made_judge(self, behind: Collection[int]) -> Judge:
        """A judge that remembers what the table holds of the time in which a duplicate is refused."""
        watermarks = Watermarks(self.table.property(WATERMARKS), shared=self._share.mixes_identities)
        watermarks.advance(behind)
        judge = Judge(self.contract, self._admitted, self._format, self.table.folder / "seen", watermarks)
        for rows in recent_rows(self.table, self.contract, self._share.partitions, watermarks):
            judge.remember(rows)
        return judge

    def _admitted(self, firsts: Collection[FirstPosition]) -> set[FirstPosition]:
        """Which of these first positions the table holds as good, as they came or replayed."""
        self._settle()  # the batch before this one counts
        wanted = pl.LazyFrame(list(firsts), schema={"partition": pl.Int32, "offset": pl.Int64}, orient="row")
        good = self.table.scan().filter(pl.col("_valid"))
        own = good.select(partition="_log_partition", offset="_log_offset")
        replayed = good.filter(pl.col("_first_offset").is_not_null()).select(
            partition="_first_partition", offset="_first_offset"
        )
        found = wanted.join(pl.concat([own, replayed]), on=["partition", "offset"], how="semi").collect()
        return set(found.rows())


def _stored(table: LakeTable, log: Log, topic: str) -> LogPosition:
    """How far the table has read the topic. Raises Refused where the log is not the one that it read."""
    identity = log.identity(topic)
    stored = stored_position(table) or LogPosition(topic, identity)
    here = f"table {table.name}, topic {topic}"
    if not isinstance(stored, LogPosition) or stored.log_id != identity:
        raise Refused(
            "the topic was made again since this table last read it: its offsets mean other events now",
            where=here,
            remedy="Point the profile's log at the one it read before; or drop the table to begin anew.",
        )
    ends = log.end(topic)
    for partition, offset in stored.offsets.items():
        if offset > ends.get(partition, 0):
            raise Refused(
                f"the table has read log partition {partition} up to {offset}, but the log ends at "
                f"{ends.get(partition, 0)}: an older copy of it was put back",
                where=here,
                remedy="Put the newer log back; or drop the table to begin anew.",
            )
    return stored


Said = Callable[[Mapping[str, str]], Mapping[str, str]]


def _said(verdicts: Verdicts, contract: Contract) -> tuple[Said, Said]:
    """What a commit says in its snapshot, and of the table; both of the table's properties as the commit
    finds them: others may have moved them since."""
    arrived = count_arrivals(verdicts.rows, contract)

    def clock(stored: Mapping[str, str]) -> str:
        return str(max(int(stored.get(LATEST_ARRIVAL, 0)), verdicts.latest))

    def facts(stored: Mapping[str, str]) -> Mapping[str, str]:
        extra = {UNDECLARED_FIELDS: json.dumps(verdicts.extra)} if verdicts.extra else {}
        return {LATEST_ARRIVAL: clock(stored), **extra, **arrived}

    def properties(stored: Mapping[str, str]) -> Mapping[str, str]:
        moved = {
            LATEST_ARRIVAL: clock(stored),
            WATERMARKS: merge_watermarks(stored.get(WATERMARKS), verdicts.watermarks),
        }
        if not verdicts.extra:
            return moved
        extra = Counter(json.loads(stored.get(UNDECLARED_FIELDS, "{}"))) + verdicts.extra
        return {**moved, UNDECLARED_FIELDS: json.dumps(dict(extra.most_common(MAX_EXTRA_NAMES)))}

    return facts, properties


def _gaps(asked: Mapping[int, int], batch: Batch) -> dict[int, int]:
    """Log partition → the offset that was asked for, where the first record found lies past it."""
    gaps = {}
    for partition, offset in asked.items():
        at = int(np.argmax(batch.partitions == partition))
        if batch.partitions[at] == partition and batch.offsets[at] > offset:
            gaps[partition] = offset
    return gaps


def ingest_all(
    contracts: Iterable[Contract],
    log: Log,
    lake: Lake,
    *,
    until_end: bool,
    stop: threading.Event,
    sinks_of: Callable[[Contract], Sequence[Sink]] | None = None,
    tell: Callable[[Progress], None] | None = None,
    schema_registry: SchemaRegistry | None = None,
    at_work: Callable[[], None] | None = None,
) -> None:
    """Ingests several topics in this process, a thread each, until stopped or at their ends.

    Args:
        sinks_of: a topic's sinks.
        tell: called with each commit's progress, from the topics' threads.
        schema_registry: as for Ingest.
        at_work: called once, when every topic is at work (Ingest.run).

    Raises:
        HeadraceError: what one of them raised; the others have then stopped too.
    """
    ingests = [Ingest(c, log, lake, sinks_of(c) if sinks_of else (), schema_registry) for c in contracts]

    waiting, lock = len(ingests), threading.Lock()

    def count() -> None:
        nonlocal waiting
        with lock:
            waiting -= 1
            last = waiting == 0
        if last and at_work is not None:
            at_work()

    def one(ingest: Ingest) -> None:
        try:
            ingest.run(until_end, stop, tell, count)
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
