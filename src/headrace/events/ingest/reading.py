"""Reading: a topic's records, batch by batch; while one batch is being judged the next is read."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from headrace.log import Batch, Log

__all__ = ["Reading"]


class Reading:
    """Reads one topic, ahead where there is much to read. One thread at a time may use it.

    Args:
        log: where the topic is.
        topic: its name.
    """

    def __init__(self, log: Log, topic: str) -> None:
        self._log, self._topic = log, topic
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[dict[int, int], Future[Batch]] | None = None

    def read(self, offsets: Mapping[int, int], limit: int) -> Batch:
        """As Log.read; after a full batch the next one is begun with."""
        batch = self._taken(offsets)
        if batch is None:
            batch = self._log.read(self._topic, offsets, limit)
        if self._thread is not None and len(batch) == limit:
            ahead = self._thread.submit(self._log.read, self._topic, batch.next, limit)
            self._ahead = (dict(batch.next), ahead)
        return batch

    def __enter__(self) -> Reading:
        self._thread = ThreadPoolExecutor(1, "ingest-read")
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._ahead = None

    def _taken(self, offsets: Mapping[int, int]) -> Batch | None:
        """What was read ahead, where that is what is asked for now."""
        if self._ahead is None:
            return None
        asked, batch = self._ahead
        self._ahead = None
        if asked == dict(offsets):
            return batch.result()
        wait([batch])  # the share has changed, or all begins anew: whatever it was, it is not wanted
        return None
