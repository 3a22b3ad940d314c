"""Looks for new rows in the tables of topics, without reading the catalog while the log has nothing new."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.events.ingest.position import READER
from headrace.kernel.errors import CallError
from headrace.kernel.position import LogPosition
from headrace.lake import Lake
from headrace.lake.positions import find_position
from headrace.lake.table_state import read_table_states
from headrace.log import Log

__all__ = ["TopicTables"]

_LONGEST = 60.0  # seconds after which the catalog is read anyhow: a table can be dropped or restored


class _Reading(NamedTuple):
    """What was read of a table.

    Attributes:
        snapshot: the id of the snapshot that wrote its rows; None: it has none.
        position: how far it has read the log; None: nothing was ingested yet.
        at: when it was read (time.monotonic).
    """

    snapshot: int | None
    position: LogPosition | None
    at: float


class TopicTables:
    """Reads which snapshots wrote the rows of topics' tables.

    Args:
        log, lake: the log with the topics, and the lake with their tables.
        tables: topic → its table.
    """

    def __init__(self, log: Log, lake: Lake, tables: Mapping[str, str]) -> None:
        self._log, self._lake, self._tables = log, lake, tables
        self._readings: dict[str, _Reading] = {}

    def read_snapshots(self, topics: Sequence[str]) -> dict[str, int | None]:
        """Table → the id of the snapshot that wrote its current rows; None: it does not exist or has no rows.

        A table is not read again while it has all events of its topic.

        Raises:
            Unavailable: the log or the catalog cannot be reached.
        """
        behind = [topic for topic in topics if not self._is_up_to_date(topic)]
        if behind:
            states = read_table_states(self._lake, [self._tables[topic] for topic in behind])
            for topic in behind:
                state = states.get(self._tables[topic])
                position = None if state is None else find_position(state.properties, READER)
                self._readings[topic] = _Reading(
                    None if state is None else state.rows_snapshot,
                    position if isinstance(position, LogPosition) else None,
                    time.monotonic(),
                )
        return {self._tables[topic]: self._readings[topic].snapshot for topic in topics}

    def _is_up_to_date(self, topic: str) -> bool:
        reading = self._readings.get(topic)
        if reading is None or reading.position is None or time.monotonic() - reading.at > _LONGEST:
            return False
        position = reading.position
        try:
            if self._log.identity(topic) != position.log_id:
                return False
            partitions = range(self._log.partitions(topic))
            return not self._log.wait(topic, {n: position.next_offset(n) for n in partitions}, 0)
        except CallError:  # the topic was removed from the log
            return False
