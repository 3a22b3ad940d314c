"""A folder in which each replica keeps its counts, so that any replica can answer with those of all.

A file `N.json` has the counts of a slot, which a replica takes with the lock `N.lock`. When a replica ends,
however it ends, the next one takes its slot and counts on from there. So counters never go back, and nothing is
counted twice. What a killed replica counted since its file was last written is lost: half a second.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec

from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.serving.metrics import ReplicaCounts
from headrace.serving.slots import take_slot

__all__ = ["MetricsSlot", "clear_metrics"]

_log = logging.getLogger("headrace.serving")
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(ReplicaCounts)


def clear_metrics(folder: Path) -> None:
    """Removes the counts of all slots. Call it before the first replica starts.

    A replica that a killed `up` left on a Ray of somebody else may still write there until Serve ends it.
    """
    for path in folder.glob("*"):
        path.unlink(missing_ok=True)


class MetricsSlot:
    """A slot that this replica holds until `close`. Threads may share it.

    Args:
        folder: the folder of the slots; it is created if it does not exist.

    Attributes:
        counts: the counts with which the slot was left.
    """

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        self._lock, number = take_slot(folder)
        self._path = folder / f"{number}.json"
        self.counts = _read(self._path) or ReplicaCounts()
        self._written = _encode(self.counts)
        self._mutex = threading.Lock()

    def write(self, counts: ReplicaCounts) -> None:
        """Writes the slot's counts, if they have changed. If that fails, it is logged, and tried the next time.

        The file is not synced to the disk: only a crash of the machine loses it, and then all replicas end.
        """
        self._write(counts)

    def sum(self, counts: ReplicaCounts) -> ReplicaCounts:
        """The sum of what is written of all slots, after the slot's counts are written.

        It counts what any replica can read, so that no replica answers with lower counts afterwards; and the
        slots in one order, because the sum of floating-point numbers depends on it.
        """
        content, total = self._write(counts), ReplicaCounts()
        for path in sorted({*self._path.parent.glob("*.json"), self._path}):
            slot = _decoder.decode(content) if path == self._path else _read(path)
            if slot is not None:
                total.add(slot)
        return total

    def close(self, counts: ReplicaCounts) -> None:
        """Writes the counts and gives the slot up: nothing is written afterwards."""
        self._write(counts)
        with self._mutex:
            self._lock.close()

    def _write(self, counts: ReplicaCounts) -> bytes:
        """Writes the counts unless the slot is closed, and returns what is written of it."""
        with self._mutex:
            content = _encode(counts)  # of one moment
            if content == self._written or self._lock.closed:
                return self._written
            try:
                write_file(self._path, content, sync=False)
            except OSError as error:
                _log.warning("the counts of the metrics cannot be written: %s", error)
            else:
                self._written = content
            return self._written


def _read(path: Path) -> ReplicaCounts | None:
    """A slot's counts; None: there are none, or the file is not whole after a crash of the machine."""
    try:
        return _decoder.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
