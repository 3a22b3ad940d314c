"""The embedded log: topics in SQLite files. WAL mode and synchronous=FULL make every append durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from time import monotonic

from headrace.log.port import Batch, Headers, check_lengths, check_sizes, record_sizes
from headrace.log.sqlite.connection import connect, name_errors
from headrace.log.sqlite.member import SqliteMember
from headrace.log.sqlite.topics import SqliteTopics

__all__ = ["SqliteLog"]

POLL_SECONDS = 0.01  # how soon `wait` notices an append of another process


class SqliteLog:
    """A folder with one SQLite file for each topic (see headrace.log.port.Log)."""

    is_dense = True

    def __init__(self, folder: str) -> None:
        """Creates the folder if it does not exist. Raises Unavailable if that fails."""
        self._topics = SqliteTopics(Path(folder))

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        self._topics.create(topic, partitions, retention)

    def retention(self, topic: str) -> timedelta | None:
        return self._topics.retention(topic)

    def topics(self) -> list[str]:
        return self._topics.names()

    def identity(self, topic: str) -> str:
        return self._topics.identity(topic)

    def partitions(self, topic: str) -> int:
        return self._topics.partitions(topic)

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        check_lengths(topic, values, keys, headers)
        if not values:
            return []
        file = self._topics.open(topic)
        sizes = record_sizes(values, keys, headers)
        remedy = "Make the events smaller: SQLite cannot store larger ones."
        check_sizes(topic, sizes, file.writer.largest, str(file.path), remedy)
        positions = file.writer.append(values, keys, headers, sizes)
        with file.appended:
            file.appended.notify_all()
        return positions

    def largest(self, topic: str) -> int:
        return self._topics.open(topic).writer.largest

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        return self._topics.open(topic).reader.read(offsets, limit)

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        file = self._topics.open(topic)
        deadline = monotonic() + timeout
        while True:
            bounds = file.reader.bounds()
            if any(offsets.get(partition, 0) < end for partition, (_, end) in bounds.items()):
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            with file.appended:
                file.appended.wait(min(POLL_SECONDS, left))

    def start(self, topic: str) -> dict[int, int]:
        return self._topics.start(topic)

    def end(self, topic: str) -> dict[int, int]:
        return self._topics.end(topic)

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._topics.trim(topic, offsets)

    def join(
        self,
        topic: str,
        group: str,
        folder: Path,  # noqa: ARG002 - the topic's file lists the living members
        settle: Callable[[], None] = lambda: None,
    ) -> SqliteMember:
        path = self._topics.open(topic).path
        with name_errors(path):
            connection = connect(path)
            connection.execute("PRAGMA synchronous = NORMAL")  # leases need not survive a crash of the machine
        return SqliteMember(connection, path, group, settle)

    def close(self) -> None:
        self._topics.close()
