"""Ships predictions: moves them from the spool folder to topic `headrace.predictions`.

Predictions are appended to the log in batches. A file beside the spool file (`.shipped`) holds the offset up to
which it is shipped. If the shipper is killed just after an append, the batch is appended again; ingest
refuses the second copy by its ids. While the disk is full, the offset is kept in memory: the shipper goes on,
so that files are removed and the disk has room again. Nothing is appended a second time for it.

A prediction that is larger than the topic accepts is not returned to a client. If the topic's limit is lowered
after the answer, the shipper moves the prediction to a separate file and ships it once the topic accepts it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.files import remove_dead_drafts, write_file
from headrace.kernel.lock import try_lock_open
from headrace.log import append_fitting
from headrace.serving.prediction import TOPIC
from headrace.serving.spool import (
    BATCH_BYTES,
    find_oversized,
    find_spool_files,
    folder_of_oversized,
    read_shipped,
    split_frames,
)

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = ["ShipResult", "Shipper", "Unmarked", "run_shipper", "ship"]

_log = logging.getLogger("headrace.serving")


class ShipResult(Struct):
    """Counts of one or several passes over a spool folder.

    Attributes:
        predictions: predictions that were appended to the log.
        oversized: predictions that were too large for the topic, and were moved to separate files.
        torn: incomplete frames at the end of a file, which were skipped.
        files: spool files that were removed.
    """

    predictions: int = 0
    oversized: int = 0
    torn: int = 0
    files: int = 0

    def __add__(self, other: ShipResult) -> ShipResult:
        return ShipResult(
            self.predictions + other.predictions,
            self.oversized + other.oversized,
            self.torn + other.torn,
            self.files + other.files,
        )


class Unmarked(Struct):
    """How far a spool file is shipped, while that cannot be written.

    Attributes:
        shipped: the offset up to which it is.
        oversized: predictions before it that are too large for the topic and have no files of their own yet.
    """

    shipped: int
    oversized: list[bytes] = field(default_factory=list)


def ship(folder: Path, log: Log, unmarked: dict[Path, Unmarked] | None = None) -> ShipResult:
    """Appends the folder's predictions to the log, and removes the spool files that are complete.

    If the writer of a file is dead, the file is shipped to its end; an incomplete last frame is skipped and
    counted.

    Args:
        folder: the spool folder.
        log: the log.
        unmarked: spool file → how far it is shipped, where that could not be written. This function changes it;
            give the same one to the next call.

    Raises:
        Unavailable: the log cannot be reached, or the folder cannot be written, for example because the disk is
            full. The remaining predictions stay in the folder.
    """
    result, unmarked = ShipResult(), {} if unmarked is None else unmarked
    if not folder.is_dir():
        return result
    try:
        _ship_oversized(folder, log, result)
        for path in find_spool_files(folder):
            _ship_file(path, log, result, unmarked)
        for path in [*unmarked]:
            _write_mark(path, unmarked, result)
    except OSError as error:
        raise Unavailable(
            f"the spool of predictions cannot be used: {error.strerror or error}",
            where=str(error.filename or folder),
            remedy="Give the disk room, or its owner the right to write; shipping goes on by itself.",
        ) from error
    return result


def _remove_leftovers(folder: Path) -> None:
    """Removes what a killed shipper or replica left: drafts, and offsets of files that are shipped."""
    remove_dead_drafts(folder)
    remove_dead_drafts(folder_of_oversized(folder))
    for mark in folder.glob("*.shipped"):
        if not mark.with_suffix(".spool").exists():
            mark.unlink()


def _ship_oversized(folder: Path, log: Log, result: ShipResult) -> None:
    for path in find_oversized(folder):
        if path.stat().st_size <= log.largest(TOPIC):
            (position,) = append_fitting(log, TOPIC, [path.read_bytes()])
            if position is not None:
                path.unlink()
                result.predictions += 1


def _write_mark(path: Path, unmarked: dict[Path, Unmarked], result: ShipResult) -> None:
    """Writes how far a spool file is shipped, after the predictions before it that the topic does not take."""
    progress = unmarked[path]
    while progress.oversized:
        _write_oversized(path.parent, progress.oversized[0])
        del progress.oversized[0]
        result.oversized += 1
    write_file(path.with_suffix(".shipped"), str(progress.shipped))
    del unmarked[path]


def _ship_file(path: Path, log: Log, result: ShipResult, unmarked: dict[Path, Unmarked]) -> None:
    progress = unmarked.get(path) or Unmarked(read_shipped(path))
    with path.open("rb") as file:
        # Unless its writer still has it. It is locked before it is read, so that nothing is written afterwards.
        is_complete = try_lock_open(file.fileno())
        file.seek(progress.shipped)
        while not progress.oversized:  # else the disk must have room first: few of them are kept in memory
            content = file.read(BATCH_BYTES)
            predictions, used = split_frames(content)
            if not predictions:
                break
            positions = append_fitting(log, TOPIC, predictions)
            progress.oversized = [
                prediction
                for prediction, position in zip(predictions, positions, strict=True)
                if position is None
            ]
            progress.shipped += used
            unmarked[path] = progress
            result.predictions += len(predictions) - len(progress.oversized)
            with suppress(OSError):  # the disk is full: `ship` tries again once complete files are removed
                _write_mark(path, unmarked, result)
            if len(content) < BATCH_BYTES:
                break  # what is appended meanwhile waits for the next pass: a commit for each few is expensive
            file.seek(progress.shipped)
        if is_complete and not progress.oversized:
            result.torn += file.seek(0, os.SEEK_END) > progress.shipped
            path.unlink()
            path.with_suffix(".shipped").unlink(missing_ok=True)
            unmarked.pop(path, None)
            result.files += 1


def _write_oversized(folder: Path, prediction: bytes) -> None:
    oversized = folder_of_oversized(folder)
    oversized.mkdir(mode=0o700, exist_ok=True)
    # Named by its content, so that writing it again after a kill gives the same file.
    path = oversized / f"{short_digest(prediction)}.json"
    write_file(path, prediction)
    _log.error(
        "a prediction of %d bytes is larger than topic %s accepts; it was moved to %s",
        len(prediction),
        TOPIC,
        path,
    )


@contextmanager
def run_shipper(settings: Settings) -> Iterator[Shipper]:
    """Ships the project's predictions to the log while the block runs, and the rest when it ends."""
    shipper = Shipper(settings.place("serving", "spool"), partial(logs.open, settings.log.url))
    try:
        yield shipper
    finally:
        shipper.stop()


class Shipper:
    """A thread that ships a spool folder to the log until it is stopped.

    While the log cannot be reached, also at the start, the predictions stay in the folder.

    Args:
        folder: the spool folder.
        open_log: opens the log.
        interval: seconds between two passes.

    Attributes:
        total: the counts since the start.
        error: the error of the last pass; None if it succeeded.
    """

    def __init__(self, folder: Path, open_log: Callable[[], Log], interval: float = 0.25) -> None:
        self.total = ShipResult()
        self.error: HeadraceError | None = None
        self._folder, self._open_log, self._interval = folder, open_log, interval
        self._log: Log | None = None
        self._unmarked: dict[Path, Unmarked] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction shipper", daemon=True)
        try:
            self._connect()
        except Unavailable as error:  # the endpoint answers without the log
            self._note(error)
        _remove_leftovers(folder)
        self._thread.start()

    def stop(self) -> None:
        """Ships what is in the folder, ends the thread and closes the log."""
        self._stop.set()
        self._thread.join()
        if self._log is not None:
            self._log.close()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._ship()
        self._ship()

    def _ship(self) -> None:
        try:
            self.total += ship(self._folder, self._connect(), self._unmarked)
        except HeadraceError as error:  # while the log is unavailable, the spool keeps the predictions
            self._note(error)
        except Exception as error:  # the thread must not end: nothing else ships them
            self._note(Unavailable(f"{type(error).__name__}: {error}"))
        else:
            self.error = None

    def _connect(self) -> Log:
        """The log, with the topic."""
        if self._log is None:
            log = self._open_log()
            try:
                log.create(TOPIC)
            except BaseException:
                log.close()
                raise
            self._log = log
        return self._log

    def _note(self, error: HeadraceError) -> None:
        if self.error is None:
            _log.warning("predictions wait in %s until the log takes them: %s", self._folder, error.what)
        self.error = error
