"""The spool: a folder that keeps each prediction until it is on the log.

A replica appends a prediction to its spool file before it answers: one write, no fsync. The prediction survives
the process; a crash of the machine may lose the last moments, since the answer does not wait for the disk.

A spool file is a sequence of frames: length and CRC-32 (both little-endian, 4 bytes), then the prediction as
JSON. The writer holds a lock on its file. A file without a lock is complete, or its writer is dead.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from headrace.kernel.errors import Unavailable
from headrace.kernel.files import create_draft
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private

__all__ = [
    "BATCH_BYTES",
    "DEFAULT_LIMIT",
    "DEFAULT_MAX_BYTES",
    "MAX_BYTES",
    "Spool",
    "check_spool",
    "find_oversized",
    "find_spool_files",
    "folder_of_oversized",
    "measure_spool",
    "read_shipped",
    "read_spool",
    "split_frames",
]

_HEAD = struct.Struct("<II")
_ROTATE = 8 << 20  # bytes after which the next file begins
BATCH_BYTES = 4 << 20
"""How many bytes of a spool file are shipped together."""
MAX_BYTES = BATCH_BYTES - _HEAD.size
"""The largest prediction that fits into a frame, whatever limit its topic has."""
_MEASURE = 0.5  # seconds between two measurements of the folder
DEFAULT_LIMIT = 1024 << 20
"""How many bytes the folder may have, by default."""
DEFAULT_MAX_BYTES = 1_000_000
"""The largest prediction that every log takes unless it is configured otherwise."""


class Spool:
    """One replica's spool: files `<UUIDv7>.spool` in a folder.

    Args:
        folder: created with mode 0700 if it does not exist.
        limit: how many bytes may wait for the log, with those of other replicas. They are measured twice a
            second, so that it may be exceeded by what is written meanwhile.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        make_private(folder)
        self._folder, self._limit = folder, limit
        self._waiting, self._due = 0, 0.0
        self._file = -1
        self._size = 0
        self._lock = threading.Lock()
        self._open()

    def check_room(self) -> None:
        """Checks that the folder has not reached its limit, because the log does not take what is in it.

        Raises:
            OSError: it has.
        """
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _MEASURE
            self._waiting = measure_spool(self._folder)
        if self._waiting >= self._limit:
            raise OSError(errno.EDQUOT, f"it has {self._waiting:,} bytes, and the limit is {self._limit:,}")

    def append(self, *predictions: bytes) -> None:
        """Writes encoded predictions.

        Raises:
            OSError: the disk is full or cannot be written. The first of them may be written nevertheless.
            ValueError: a prediction is larger than MAX_BYTES.
        """
        if any(len(prediction) > MAX_BYTES for prediction in predictions):
            raise ValueError(f"a prediction may have at most {MAX_BYTES} bytes")
        frames = b"".join(
            _HEAD.pack(len(prediction), zlib.crc32(prediction)) + prediction for prediction in predictions
        )
        with self._lock:
            if self._file < 0:
                raise OSError(errno.EBADF, "the spool is closed", str(self._folder))
            if self._size + len(frames) > _ROTATE and self._size:
                self._open()
            try:
                self._write(frames)
            except OSError:
                if self._size:  # once the old file is shipped, its room is free
                    with suppress(OSError):
                        self._open()
                raise

    def _write(self, frames: bytes) -> None:
        written = os.write(self._file, frames)
        if written != len(frames):
            # The next frame must not follow half a frame. A shipper may have read the whole ones: they stay.
            written = split_frames(frames[:written])[1]
            os.ftruncate(self._file, self._size + written)
        self._size += written
        if written != len(frames):
            raise OSError(errno.ENOSPC, "the spool's disk is full", str(self._folder))

    def close(self) -> None:
        """Closes the file; a shipper then ships and removes it."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _open(self) -> None:
        """Begins a new file. If that fails, the old one stays open."""
        path = self._folder / f"{new_id()}.spool"
        # A shipper must not see the file before it is locked.
        draft, file = create_draft(path, mode=0o600, flags=os.O_APPEND)
        try:
            draft.rename(path)
        except OSError:
            os.close(file)
            raise
        # The number of a closed file may be that of a client's connection by now.
        before, self._file = self._file, file
        if before >= 0:
            os.close(before)
        self._size = 0


def find_spool_files(folder: Path) -> list[Path]:
    """The spool files, oldest first: their names are UUIDv7."""
    return sorted(folder.glob("*.spool"))


def measure_spool(folder: Path) -> int:
    """The bytes of the predictions in the folder that wait for the log."""
    size = 0
    for path in [*folder.glob("*.spool"), *find_oversized(folder)]:
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # it was shipped meanwhile
            continue
    return max(0, size - sum(read_shipped(path) for path in folder.glob("*.spool")))


def read_shipped(path: Path) -> int:
    """The offset up to which a spool file is on the log."""
    try:
        return int(path.with_suffix(".shipped").read_text())
    except FileNotFoundError:
        return 0


def check_spool(folder: Path, limit: int) -> None:
    """Checks that the folder has not reached its limit. Raises Unavailable."""
    size = measure_spool(folder)
    if size >= limit:
        raise Unavailable(
            f"no predictions are made: {size >> 20:,} MiB of them wait for the log",
            where=str(folder),
            remedy="headrace up ships them once the log takes them. Raise max_spool if the disk has room.",
        )


def folder_of_oversized(folder: Path) -> Path:
    """The folder in which a shipper keeps predictions that are too large for the topic."""
    return folder / "oversized"


def find_oversized(folder: Path) -> list[Path]:
    """The files of predictions that are too large for the topic: one encoded prediction each."""
    return sorted(folder_of_oversized(folder).glob("*.json"))


def read_spool(folder: Path) -> Iterator[bytes]:
    """The encoded predictions in the folder, oversized ones included. Some may be on the log already."""
    for path in [*find_spool_files(folder), *find_oversized(folder)]:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # it was shipped meanwhile
            continue
        if path.suffix == ".spool":
            yield from split_frames(content)[0]
        else:
            yield content


def split_frames(content: bytes) -> tuple[list[bytes], int]:
    """The predictions in the intact frames at the start of the content, and the length of these frames."""
    predictions: list[bytes] = []
    position = 0
    while position + _HEAD.size <= len(content):
        length, crc = _HEAD.unpack_from(content, position)
        end = position + _HEAD.size + length
        if length > MAX_BYTES or end > len(content):
            break
        prediction = content[position + _HEAD.size : end]
        if zlib.crc32(prediction) != crc:
            break
        predictions.append(prediction)
        position = end
    return predictions, position
