"""Share: the log partitions of a topic that one of its ingests has, while others have the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from headrace.declare.event import Contract
from headrace.events.ingest.position import stored_position
from headrace.kernel.digest import short_digest
from headrace.lake import LakeTable
from headrace.log import Log, Member

__all__ = ["Share"]


class Share:
    """All of the topic's log partitions; those that the group of its ingests gives, once it has joined.

    Where a contract refuses duplicates, the same event must always meet the same ingest. With a `key` it
    lies in one log partition however often it is sent. Without, it may lie in any: then whoever has
    log partition 0 has them all.

    Attributes:
        partitions: which.
    """

    def __init__(self, contract: Contract, log: Log, table: LakeTable) -> None:
        self._topic = contract.topic
        self._undivided = contract.dedup_within is not None and contract.key is None
        self._log = log
        self._table = table
        self._member: Member | None = None
        self.partitions = self._all()

    @property
    def mixes_identities(self) -> bool:
        """Whether the same event may lie in any of several log partitions."""
        return self._undivided and len(self.partitions) > 1

    @contextmanager
    def joined(self, settle: Callable[[], None]) -> Iterator[None]:
        """For the block, the topic is shared with all who ingest it into the same table.

        Args:
            settle: finishes what is being made of the share; called before some of it is given up.
        """
        # Another table of this name, made later or in another catalog, must get the whole topic again.
        table = f"{self._table.where} {self._table.iceberg().metadata.table_uuid}"
        group = f"headrace-{self._table.name}-{short_digest(table)}"
        self._member = self._log.join(self._topic, group, self._table.folder / "members", settle)
        self.partitions = frozenset()
        try:
            yield
        finally:
            member, self._member = self._member, None
            member.close()

    def moved(self) -> bool:
        """Looks at the share anew: whether it has changed."""
        if self._member is None:
            return False
        before, held = self.partitions, self._member.partitions()
        if self._undivided:
            held = self._all() if 0 in held else frozenset()
        self.partitions = held
        return held != before

    def wait(self, offsets: Mapping[int, int], stop: threading.Event, seconds: float) -> None:
        """Returns when there is something behind the offsets, when `stop` is set where there is no share, or
        after so many seconds."""
        if self.partitions:
            self._log.wait(self._topic, offsets, seconds)
        else:
            stop.wait(seconds)

    def others_reached(self, end: Mapping[int, int]) -> bool:
        """Whether the others have brought the table to these offsets of their log partitions."""
        stored = None
        for partition in end.keys() - self.partitions:
            stored = stored or stored_position(self._table)
            at = stored.next_offset(partition) if stored is not None else 0
            if at < end[partition] and self._holds_more(partition, at, end[partition]):
                return False
        return True

    def _holds_more(self, partition: int, at: int, end: int) -> bool:
        """Whether a record lies between two offsets: not all offsets have one (Kafka's markers)."""
        batch = self._log.read(self._topic, {partition: at}, 1)
        return len(batch) > 0 and int(batch.offsets[0]) < end

    def _all(self) -> frozenset[int]:
        return frozenset(range(self._log.partitions(self._topic)))
