"""Prediction log: each answer, kept before it is given, and on its way to topic `headrace.predictions`.

A replica appends a prediction to its spool file before it answers: one write, no fsync, so it
survives the process (a crash of the machine may take the last moments; the answer does not wait for
the disk). A shipper moves spool files to the log in batches and remembers how far it came. A batch
that was appended just before a kill is appended again: ingest refuses the second by its id.

A prediction that is larger than the topic takes is not answered. Where the topic came to take less after the
answer, the shipper puts the prediction aside, as a file of its own, and ships it once the topic takes it.

A frame is a length and a CRC-32 (both little-endian, 4 bytes), then the prediction as JSON.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.event import event
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import HeadraceError
from headrace.kernel.files import write_file
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.log import append_fitting

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = [
    "LARGEST", "TOPIC", "USUAL", "Prediction", "Shipped", "Shipper", "Spool", "aside", "run_shipper", "ship",
    "spooled",
]  # fmt: skip

TOPIC = "headrace.predictions"
_log = logging.getLogger("headrace.serving")
_HEAD = struct.Struct("<II")
_ROTATE = 8 << 20  # bytes: what a file holds before the next one begins
_BATCH = 4 << 20  # bytes of frames that are shipped at once
LARGEST = _BATCH - _HEAD.size
"""Bytes of a prediction, whatever the topic takes: a longer frame is no frame."""
USUAL = 1_000_000
"""Bytes of a prediction that every log takes unless it is told otherwise."""


@event(topic=TOPIC, time="at", identity=["id"], dedup_within="1d")
class Prediction(Struct, frozen=True):
    """One answer, with what it was made from.

    Attributes:
        id: a UUIDv7; the answer carries it.
        model, version: who answered.
        arm: the release's arm, such as `champion`.
        shadow: whether this is a shadow arm's copy, which answered nobody.
        at: when the features were looked up.
        entity: the entity keys.
        request: the request's other fields.
        features: feature (`view__name`) → value as the model saw it; null: missing.
        score: the model's answer.
        missing: the features that were missing.
        positions: view → the position its values stand for.
        release: the id of the release in force.
        answers: of a shadow's copy, the id of the prediction that was the answer.
    """

    id: str
    model: str
    version: int
    arm: str
    shadow: bool
    at: datetime
    entity: dict[str, Any]
    request: dict[str, Any]
    features: dict[str, Any]
    score: float
    missing: list[str]
    positions: dict[str, Any]
    release: str
    answers: str | None = None


class Spool:
    """One replica's spool: files `<UUIDv7>.spool` in a folder. The one being written is locked.

    Args:
        folder: made (0700) if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        make_private(folder)
        self._folder = folder
        self._file = -1
        self._size = 0
        self._lock = threading.Lock()
        self._open()

    def append(self, *predictions: bytes) -> None:
        """Keeps encoded predictions, all of them or none.

        Raises:
            OSError: the disk does not take them.
            ValueError: one is larger than 4 MiB.
        """
        if any(len(one) > LARGEST for one in predictions):
            raise ValueError(f"a prediction may have {LARGEST} bytes at most")
        frames = b"".join(_HEAD.pack(len(one), zlib.crc32(one)) + one for one in predictions)
        with self._lock:
            if self._size + len(frames) > _ROTATE and self._size:
                os.close(self._file)
                self._open()
            written = os.write(self._file, frames)
            if written != len(frames):  # a full disk: leave no half frame before the next one
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, "the spool's disk is full", str(self._folder))
            self._size += written

    def close(self) -> None:
        """Closes the file; a shipper then takes and removes it."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _open(self) -> None:
        path = self._folder / f"{new_id()}.spool"
        fresh = path.with_suffix(".opening")  # a shipper must not see it before it is locked
        self._file = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # held until the file is complete, or its process dead
        fresh.rename(path)
        self._size = 0


class Shipped(Struct):
    """What one pass over a spool folder did: predictions shipped, put aside as too large, torn tails skipped,
    files removed."""

    predictions: int = 0
    aside: int = 0
    torn: int = 0
    files: int = 0


def ship(folder: Path, log: Log) -> Shipped:
    """Moves what the folder's spool files hold to the log, and removes the files that are complete.

    A file whose writer is gone is shipped to its end; a torn last frame there is skipped and counted. A
    prediction that the topic does not take is put aside; one that it takes by now is taken from there.

    Raises:
        Unavailable: the log is away; what was not shipped stays.
    """
    done = Shipped()
    if not folder.is_dir():
        return done
    _ship_aside(folder, log, done)
    for path in sorted(folder.glob("*.spool")):  # names are UUIDv7: oldest first
        _ship_file(path, log, done)
    return done


def aside(folder: Path) -> list[Path]:
    """The files of the predictions that were put aside as too large for the topic, one each, encoded."""
    return sorted(folder.joinpath("aside").glob("*.json"))


def _put_aside(folder: Path, prediction: bytes) -> None:
    place = folder / "aside"
    place.mkdir(mode=0o700, exist_ok=True)
    # By its content: put aside once more after a kill, it is the same file.
    path = place / f"{short_digest(prediction)}.json"
    write_file(path, prediction)
    _log.error(
        "a prediction of %d bytes is larger than topic %s takes; it is in %s", len(prediction), TOPIC, path
    )


def _ship_aside(folder: Path, log: Log, done: Shipped) -> None:
    for path in aside(folder):
        if path.stat().st_size <= log.largest(TOPIC):
            (position,) = append_fitting(log, TOPIC, [path.read_bytes()])
            if position is not None:
                path.unlink()
                done.predictions += 1


def spooled(folder: Path) -> Iterator[bytes]:
    """What the folder holds now, encoded, and what was put aside; some may be on the log already."""
    for path in [*sorted(folder.glob("*.spool")), *aside(folder)]:
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # shipped meanwhile
            continue
        if path.suffix == ".spool":
            yield from _frames(data)[0]
        else:
            yield data


def _ship_file(path: Path, log: Log, done: Shipped) -> None:
    mark = path.with_suffix(".shipped")
    start = int(mark.read_text()) if mark.exists() else 0
    with path.open("rb") as file:
        complete = _unlocked(file.fileno())  # asked before reading: nothing is written after it
        file.seek(start)
        while True:
            data = file.read(_BATCH)
            frames, used = _frames(data)
            if not frames:
                break
            positions = append_fitting(log, TOPIC, frames)
            for frame, position in zip(frames, positions, strict=True):
                if position is None:
                    _put_aside(path.parent, frame)
                    done.aside += 1
                else:
                    done.predictions += 1
            start += used
            write_file(mark, b"%d" % start)
            file.seek(start)
        if complete:
            done.torn += file.seek(0, os.SEEK_END) > start
            path.unlink()
            mark.unlink(missing_ok=True)
            done.files += 1


def _unlocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _frames(data: bytes) -> tuple[list[bytes], int]:
    """The whole, sound frames at the start of `data`, and how many bytes they take."""
    frames: list[bytes] = []
    place = 0
    while place + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, place)
        end = place + _HEAD.size + length
        if length > LARGEST or end > len(data):
            break
        frame = data[place + _HEAD.size : end]
        if zlib.crc32(frame) != crc:
            break
        frames.append(frame)
        place = end
    return frames, place


@contextmanager
def run_shipper(settings: Settings) -> Iterator[Shipper]:
    """While the block runs, the project's predictions are shipped to the log; what is left, at its end."""
    with closing(logs.open(settings.log.url)) as log:
        shipper = Shipper(settings.place("serving", "spool"), log)
        try:
            yield shipper
        finally:
            shipper.stop()


class Shipper:
    """A thread that ships a spool folder to the log until it is stopped.

    Attributes:
        shipped: totals since the start.
        error: why the last pass failed, or None.
    """

    def __init__(self, folder: Path, log: Log, every: float = 0.25) -> None:
        self.shipped = Shipped()
        self.error: HeadraceError | None = None
        self._folder, self._log, self._every = folder, log, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction shipper", daemon=True)
        log.create(TOPIC)
        self._thread.start()

    def stop(self) -> None:
        """Ships what is there once more, then ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._once()
        self._once()

    def _once(self) -> None:
        try:
            done = ship(self._folder, self._log)
        except HeadraceError as error:  # the log is away: the spool keeps everything meanwhile
            self.error = error
            return
        self.error = None
        self.shipped = Shipped(*(a + b for a, b in zip(
            msgspec.structs.astuple(self.shipped), msgspec.structs.astuple(done), strict=True)))  # fmt: skip
