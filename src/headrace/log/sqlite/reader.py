"""Reads from a topic's file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from headrace.log.port import Batch
from headrace.log.sqlite.chunks import SHIFT, ChunkSlice, decode, join
from headrace.log.sqlite.connection import connect, name_errors

__all__ = ["SqliteReader"]

READ_BYTES = 256 << 20  # a batch ends with the chunk that exceeds this, so that its memory is bounded


class SqliteReader:
    """A connection that reads a topic's file. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable if the file cannot be opened."""
        self._path = path
        self._lock = threading.Lock()
        with name_errors(path):
            self._db = connect(path)

    def identity(self) -> str:
        """The topic's identity (Log.identity)."""
        return str(self._fetch("SELECT identity FROM topic")[0][0])

    def retention(self) -> timedelta | None:
        """How long records are kept at least; None: forever."""
        ((micros,),) = self._fetch("SELECT retention FROM topic")
        return None if micros is None else timedelta(microseconds=micros)

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Log partition → (first offset that is kept, next offset to be written)."""
        rows = self._fetch("SELECT id, first_offset, next_offset FROM log_partition")
        return {partition: (first, end) for partition, first, end in rows}

    def read(self, offsets: Mapping[int, int], limit: int) -> Batch:
        """Reads at most `limit` records from these offsets on (Log.read)."""
        slices: list[ChunkSlice] = []
        left, size = limit, 0
        with name_errors(self._path), self._lock:
            for turn, (partition, offset) in enumerate(sorted(offsets.items())):
                # Each partition gets an equal part of what is left, so that none starves another.
                share = -(-left // (len(offsets) - turn))
                for part in self._slices(partition, offset, share):
                    slices.append(part)
                    left -= len(part.values)
                    size += part.size
                    if size >= READ_BYTES:
                        break
                if size >= READ_BYTES:
                    break
        return join(slices, offsets)

    def close(self) -> None:
        """Closes the connection after the read in progress."""
        with self._lock:
            self._db.close()

    def _fetch(self, query: str) -> list[tuple]:  # type: ignore[type-arg]
        with name_errors(self._path), self._lock:
            return self._db.execute(query).fetchall()

    def _slices(self, partition: int, offset: int, limit: int) -> Iterator[ChunkSlice]:
        low = partition << SHIFT
        if limit <= 0:
            return
        containing = self._db.execute(
            "SELECT id FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", (low, low + offset)
        ).fetchone()
        with closing(
            self._db.execute(
                "SELECT id, arrived_at, body FROM chunk WHERE id >= ? AND id < ? ORDER BY id",
                (containing[0] if containing else low, (partition + 1) << SHIFT),
            )
        ) as rows:
            for id_, arrived_at, body in rows:
                first = id_ - low
                part = decode(partition, first, arrived_at, body, max(0, offset - first), limit)
                if part is not None:
                    limit -= len(part.values)
                    yield part
                if limit == 0:
                    return
