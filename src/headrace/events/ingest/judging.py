"""Judges a topic's batches: with a judge that knows what the table holds, and without the events that cannot be
judged or stored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

import polars as pl

from headrace.declare.event import Contract
from headrace.events.formats import Format
from headrace.events.formats.refusals import Refusal
from headrace.events.ingest.reader import ReadSpan
from headrace.events.ingest.rows import recent_rows
from headrace.events.ingest.share import TopicShare
from headrace.events.ingest.unwritable import find_unwritable, judge_batch
from headrace.events.verdicts.judge import FirstPosition, Judge, Verdicts
from headrace.events.verdicts.watermarks import Watermarks
from headrace.kernel.properties import WATERMARKS
from headrace.lake import LakeTable, Unwritable
from headrace.log import Batch, Log

__all__ = ["TopicJudge"]

_logger = logging.getLogger(__name__)


class TopicJudge:
    """Judges the batches of one topic.

    Args:
        contract: the topic's contract.
        format: decodes its events.
        log, table, share: the topic's log, table and share.
        await_commit: waits for the batch that is being written.
        history_until: see Judge.
    """

    def __init__(
        self,
        contract: Contract,
        format: Format,
        log: Log,
        table: LakeTable,
        share: TopicShare,
        await_commit: Callable[[], None],
        history_until: datetime | None = None,
    ) -> None:
        self._contract, self._format = contract, format
        self._log, self._table, self._share = log, table, share
        self._await_commit = await_commit
        self._history_until = history_until
        self._judge: Judge | None = None
        self._is_searching = False  # whether a batch failed, so its events are checked one by one

    def reset(self) -> None:
        """Discards the judge: the next batch follows the table's last commit."""
        self._judge = None

    def judge(self, batch: Batch, span: ReadSpan) -> Verdicts:
        """Judges a batch.

        Raises:
            Unwritable: the judge fails on an event.
            Unavailable: as Judge.judge.
        """
        behind = self._find_behind(span.start)
        if self._judge is None:
            self._judge = self._build_judge(behind)
        else:
            self._judge.watermarks.advance(behind)
        unwritable: dict[int, Refusal] = {}
        if self._is_searching:
            unwritable = find_unwritable(batch, self._contract, self._format, self._table)
        return judge_batch(self._judge, batch, unwritable)

    def start_search(self, error: Unwritable) -> None:
        """Checks the events of a failed batch one by one when the batch is read again.

        Raises:
            Unwritable: the error, if the events were checked already: no single event is the cause.
        """
        if self._is_searching:
            raise error
        _logger.warning("topic %s: looking for the event: %s", self._contract.topic, error)
        self._is_searching = True

    def end_search(self) -> None:
        """Stops checking events one by one: the batch was stored."""
        self._is_searching = False

    def _find_behind(self, offsets: Mapping[int, int]) -> frozenset[int]:
        """The log partitions with events that are not judged yet, if a watermark depends on them."""
        if not self._share.mixes_identities:
            return frozenset()
        ends = self._log.end(self._contract.topic)
        return frozenset(partition for partition, offset in offsets.items() if offset < ends.get(partition, 0))

    def _build_judge(self, behind: Collection[int]) -> Judge:
        """Builds a judge that remembers the table's rows of the time in which a duplicate is refused."""
        watermarks = Watermarks(self._table.property(WATERMARKS), shared=self._share.mixes_identities)
        watermarks.advance(behind)
        folder = self._table.folder / "seen"
        judge = Judge(
            self._contract, self._find_admitted, self._format, folder, watermarks, self._history_until
        )
        for rows in recent_rows(self._table, self._contract, self._share.partitions, watermarks):
            judge.remember(rows)
        return judge

    def _find_admitted(self, firsts: Collection[FirstPosition]) -> set[FirstPosition]:
        """Finds the first positions that the table holds as good, as original events or replays."""
        self._await_commit()  # so that the previous batch counts
        positions = pl.LazyFrame(list(firsts), schema={"partition": pl.Int32, "offset": pl.Int64}, orient="row")
        good = self._table.scan().filter(pl.col("_valid"))
        original = good.select(partition="_log_partition", offset="_log_offset")
        replayed = good.filter(pl.col("_first_offset").is_not_null()).select(
            partition="_first_partition", offset="_first_offset"
        )
        admitted = pl.concat([original, replayed])
        return set(positions.join(admitted, on=["partition", "offset"], how="semi").collect().rows())
