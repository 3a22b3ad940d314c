"""One commit: files in, files out and properties, all or nothing, on whatever the head has become.

PyIceberg retries a stale append by itself, which would carry a position past one that another
writer has moved meanwhile. So its retries are off here (in memory, never in the table), and each
try begins with the table as it now is.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    BadRequestError,
    CommitFailedException,
    ForbiddenError,
    NoSuchTableError,
    OAuthError,
    UnauthorizedError,
    ValidationException,
)
from pyiceberg.manifest import DataFile
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from sqlalchemy.exc import OperationalError

from headrace.kernel.errors import Conflict, HeadraceError, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.ids import new_id
from headrace.kernel.properties import COMMIT_ID
from headrace.kernel.sqlite import is_locked
from headrace.kernel.time import now_micros
from headrace.lake.lease import FIRST, MARKED_SECONDS, mark_first

__all__ = ["BRIEF", "LONG", "Change", "commit", "discard", "writing"]

_logger = logging.getLogger(__name__)
# Microseconds from a data file's beginning to its commit, at most: the sweep takes files for left behind
# when they are twice as old, or a day. LONG is for writes whose rows are still being made meanwhile.
BRIEF = 1_800_000_000
LONG = 23 * 3_600_000_000
_DEADLINE = 60.0  # seconds
# What surely did not happen, and would not another time.
_REFUSED = (
    AuthorizationExpiredError,
    BadRequestError,
    ForbiddenError,
    NoSuchTableError,
    OAuthError,
    UnauthorizedError,
)


@dataclass(frozen=True)
class Change:
    """What a commit does.

    Attributes:
        added: data files, written already.
        removed: given the table as it now is, the data files that go.
        properties: given the table as it now is, the properties to set; it raises Conflict where
            the table has moved past what this change was made for.
        facts: given the table as it now is, what the snapshot's summary says of it.
        merge: whether the table's manifests are merged into as few as can be.
        until: microseconds since 1970, after which it is too late: the files may be swept.
        first: whether, once beaten, it asks other writers to give way. A commit that takes files out
            of a table that many write to would be too slow for ever.
    """

    added: list[DataFile]
    removed: Callable[[Any], list[DataFile]] | None = None
    properties: Callable[[Any], Mapping[str, str]] = lambda _: {}
    facts: Callable[[Any], Mapping[str, str]] = lambda _: {}
    merge: bool = False
    until: int | None = None
    first: bool = False


def commit(load: Callable[[], Any], change: Change, *, where: str) -> IcebergSnapshot:
    """Commits the change as one snapshot and returns it.

    Args:
        load: the table, fresh from the catalog.
        change: what to do.
        where: the table and catalog, for errors.

    Raises:
        Conflict: `change.properties` or `change.removed` said so, or a file to remove is not there
            any more; nothing was committed.
        Unavailable: other writers were faster for a minute, or it is too late, and nothing was
            committed; or the catalog went away before it told the outcome, and the table does not
            show the batch: it may yet appear.
    """
    batch = new_id()
    reach("lake.before_commit")
    deadline = time.monotonic() + _DEADLINE
    pause = 0.002
    table = _loaded(load, change)
    while True:
        if change.until is not None and now_micros() > change.until:  # looked at after the table was loaded
            raise Unavailable("its rows were written too long ago", where=where, remedy="Try again.")
        try:
            snapshot_id = _try(table, change, batch)
        except ValidationException as error:
            raise Conflict(str(error), where=where) from error
        except CommitFailedException as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "other writers kept changing the table", where=where, remedy="Try again."
                ) from error
            if change.first:
                mark_first(table.catalog, load)
            else:
                time.sleep(random.uniform(0, pause))  # noqa: S311  (so that two losers don't meet again)
                pause = min(pause * 2, 0.25)
        except (HeadraceError, *_REFUSED):
            raise
        except Exception as error:
            landed = _after_unknown(load, batch)
            if landed is not None:
                return landed
            if isinstance(error, OperationalError) and _was_undone(error.orig):
                raise
            raise Unavailable(
                f"the commit's outcome is unknown: {type(error).__name__}: {error}",
                where=where,
                remedy="Read the position again before writing: if it has moved, the rows are in.",
            ) from error
        else:
            reach("lake.after_commit")
            return table.snapshot_by_id(snapshot_id)
        table = _loaded(load, change)
        if (landed := _find(table, batch)) is not None:
            return landed


def _loaded(load: Callable[[], Any], change: Change) -> Any:
    """The table; where a commit is under way that others give way to, once that is over."""
    table = load()
    end = time.monotonic() + MARKED_SECONDS
    while not change.first and _is_marked(table) and time.monotonic() < end:
        time.sleep(0.02)
        table = load()
    return table


def _is_marked(table: Any) -> bool:
    return any(name.startswith(FIRST) and int(name.removeprefix(FIRST)) > now_micros() for name in table.refs())


def _try(table: Any, change: Change, batch: str) -> int:
    properties = change.properties(table)
    removed = change.removed(table) if change.removed is not None else []
    facts = {**change.facts(table), COMMIT_ID: batch}
    merging = {"commit.manifest.min-count-to-merge": "2"} if change.merge else {}
    transaction = writing(table, merging).transaction()
    update = transaction.update_snapshot(snapshot_properties=facts)
    producer = update.overwrite() if removed else update.merge_append()
    for data_file in removed:
        producer.delete_data_file(data_file)
    for data_file in change.added:
        producer.append_data_file(data_file)
    producer.commit()
    if properties:
        transaction.set_properties(dict(properties))
    transaction.commit_transaction()
    return int(producer.snapshot_id)


def writing(table: Any, properties: Mapping[str, str]) -> Any:
    """The handle as a commit needs it, in memory alone: own retries off, these properties on, and of
    the snapshots only the head: PyIceberg copies them all, a dozen times a commit.
    """
    metadata = table.metadata
    head = metadata.current_snapshot()
    changed = {
        "properties": {**metadata.properties, "commit.retry.num-retries": "0", **properties},
        "snapshots": [] if head is None else [head],
        "snapshot_log": [],
        "refs": {name: ref for name, ref in metadata.refs.items() if name == MAIN_BRANCH},
    }
    if table.catalog.properties.get("type") == "rest":
        changed["metadata_log"] = []  # the service deletes old metadata; so PyIceberg has none to delete
    table.metadata = metadata.model_copy(update=changed)
    return table


def _was_undone(error: object) -> bool:
    """Whether SQLite surely took the transaction back. After an I/O error nobody knows."""
    return is_locked(error) or "full" in str(error)


def _after_unknown(load: Callable[[], Any], batch: str) -> IcebergSnapshot | None:
    try:
        return _find(load(), batch)
    except Exception:  # the catalog is still away: the caller reports the first failure
        return None


def _find(table: Any, batch: str) -> IcebergSnapshot | None:
    for snapshot in reversed(table.metadata.snapshots):
        if snapshot.summary is not None and snapshot.summary.additional_properties.get(COMMIT_ID) == batch:
            return snapshot
    return None


def discard(table: Any, files: list[DataFile]) -> None:
    """Deletes data files of a commit that surely did not happen; the sweep takes what it cannot."""
    for data_file in files:
        try:
            table.io.delete(data_file.file_path)
        except OSError as error:
            _logger.warning("%s is left to the sweep: %s", data_file.file_path, error)
