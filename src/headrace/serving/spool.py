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
import zlib
from collections.abc import Iterator
from pathlib import Path

from headrace.kernel.files import create_draft
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private

__all__ = [
    "BATCH_BYTES",
    "DEFAULT_MAX_BYTES",
    "MAX_BYTES",
    "Spool",
    "find_oversized",
    "find_spool_files",
    "folder_of_oversized",
    "read_spool",
    "split_frames",
]

_HEAD = struct.Struct("<II")
_ROTATE = 8 << 20  # bytes after which the next file begins
BATCH_BYTES = 4 << 20
"""How many bytes of a spool file are shipped together."""
MAX_BYTES = BATCH_BYTES - _HEAD.size
"""The largest prediction that fits into a frame, whatever limit its topic has."""
DEFAULT_MAX_BYTES = 1_000_000
"""The largest prediction that every log takes unless it is configured otherwise."""


class Spool:
    """One replica's spool: files `<UUIDv7>.spool` in a folder.

    Args:
        folder: created with mode 0700 if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        self._folder = folder
        self._file = -1
        self._size = 0
        self._lock = threading.Lock()
        self._open()

    def append(self, *predictions: bytes) -> None:
        """Writes encoded predictions, all of them or none.

        Raises:
            OSError: the disk is full or cannot be written.
            ValueError: a prediction is larger than MAX_BYTES.
        """
        if any(len(prediction) > MAX_BYTES for prediction in predictions):
            raise ValueError(f"a prediction may have at most {MAX_BYTES} bytes")
        frames = b"".join(
            _HEAD.pack(len(prediction), zlib.crc32(prediction)) + prediction for prediction in predictions
        )
        with self._lock:
            if self._size + len(frames) > _ROTATE and self._size:
                self._open()
            written = os.write(self._file, frames)
            if written != len(frames):  # the disk is full, and the next frame must not follow half a frame
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, "the spool's disk is full", str(self._folder))
            self._size += written

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
