"""The share of a topic's log partitions that one ingest reads, while other ingests read the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from headrace.declare.event import Contract
from headrace.events.ingest.position import read_position
from headrace.kernel.digest import short_digest
from headrace.lake import LakeTable
from headrace.log import Log, Member

__all__ = ["TopicShare"]


class TopicShare:
    """An ingest's share of a topic's log partitions: all of them until it joins the group of the topic's
    ingests.

    If a contract refuses duplicates, the same event must always reach the same ingest. With a `key` an event is
    in one log partition however often it is sent. Without a key it may be in any, so the member with log
    partition 0 reads them all.

    Attributes:
        partitions: the log partitions.
    """

    def __init__(self, contract: Contract, log: Log, table: LakeTable) -> None:
        self._topic = contract.topic
        self._is_indivisible = contract.dedup_within is not None and contract.key is None
        self._log = log
        self._table = table
        self._member: Member | None = None
        self.partitions = self._all()

    @property
    def mixes_identities(self) -> bool:
        """Whether the same event may be in any of several log partitions."""
        return self._is_indivisible and len(self.partitions) > 1

    @contextmanager
    def join(self, settle: Callable[[], None]) -> Iterator[None]:
        """Shares the topic, during the block, with all ingests into the same table.

        Args:
            settle: finishes work on the share; called before some of its partitions go to another member.
        """
        # Another table of this name, created later or in another catalog, must get the whole topic again.
        table = f"{self._table.where} {self._table.uuid()}"
        group = f"headrace-{self._table.name}-{short_digest(table)}"
        self._member = self._log.join(self._topic, group, self._table.folder / "members", settle)
        self.partitions = frozenset()
        try:
            yield
        finally:
            member, self._member = self._member, None
            member.close()

    def refresh(self) -> bool:
        """Updates the share; returns whether it has changed."""
        if self._member is None:
            return False
        before, share = self.partitions, self._member.partitions()
        if self._is_indivisible:
            share = self._all() if 0 in share else frozenset()
        self.partitions = share
        return share != before

    def wait(self, offsets: Mapping[int, int], stop: threading.Event, seconds: float) -> None:
        """Waits until there is a record at one of the next offsets, but at most `seconds`.

        Without partitions, it waits until `stop` is set, but at most `seconds`.
        """
        if self.partitions:
            self._log.wait(self._topic, offsets, seconds)
        else:
            stop.wait(seconds)

    def is_committed_by_others(self, end: Mapping[int, int]) -> bool:
        """Whether the other ingests have committed their log partitions up to these offsets."""
        stored = None
        for partition in end.keys() - self.partitions:
            stored = stored or read_position(self._table)
            at = stored.next_offset(partition) if stored is not None else 0
            if at < end[partition] and self._has_record(partition, at, end[partition]):
                return False
        return True

    def _has_record(self, partition: int, at: int, end: int) -> bool:
        """Whether there is a record between two offsets: some hold none (Kafka's markers)."""
        batch = self._log.read(self._topic, {partition: at}, 1)
        return len(batch) > 0 and int(batch.offsets[0]) < end

    def _all(self) -> frozenset[int]:
        return frozenset(range(self._log.partitions(self._topic)))
