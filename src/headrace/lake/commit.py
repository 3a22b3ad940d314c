"""One commit: adds files, removes files and sets properties of the current table, all or nothing.

PyIceberg's own retry of a stale append would ignore that another writer has moved a position meanwhile. So its
retries are off (lake/pyiceberg_internals.py), and each attempt here loads the table from the catalog again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct
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
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from sqlalchemy.exc import OperationalError

from headrace.kernel.backoff import Backoff
from headrace.kernel.errors import Conflict, HeadraceError, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.ids import new_id
from headrace.kernel.properties import COMMIT_ID
from headrace.kernel.sqlite import is_locked
from headrace.kernel.time import now_micros
from headrace.lake.lease import FIRST, MARKED_SECONDS, mark_first
from headrace.lake.pyiceberg_internals import prepare_commit, replace_manifests, set_snapshot_id
from headrace.lake.snapshot import summary_of

__all__ = ["BRIEF", "LONG", "FileChanges", "commit", "discard"]

_logger = logging.getLogger(__name__)
# The most microseconds from the start of writing a data file to its commit: files twice as old, or a day old,
# are removed as orphans. LONG is for writes whose rows are computed meanwhile.
BRIEF = 1_800_000_000
LONG = 23 * 3_600_000_000
_DEADLINE = 60.0  # seconds
# Errors after which the commit certainly did not happen, and would fail again.
_REFUSED = (
    AuthorizationExpiredError,
    BadRequestError,
    ForbiddenError,
    NoSuchTableError,
    OAuthError,
    UnauthorizedError,
)


def _nothing(_: Table) -> Mapping[str, str]:
    return {}


def _no_files(_: Table) -> Iterable[DataFile]:
    return ()


class FileChanges(Struct, frozen=True):
    """The changes of a commit.

    Attributes:
        added: data files, already written.
        removed: returns the data files to remove, given the current table.
        properties: returns the properties to set, given the current table; raises Conflict if the table has
            changed in a way that makes this commit wrong.
        facts: returns the entries of the snapshot's summary, given the current table.
        merge: whether to merge the table's manifests into as few as possible.
        until: microseconds since 1970 after which it is too late: the files may be removed as orphans.
        snapshot_id: the id of the snapshot, which the table must not have; None: a new one.
        first: whether to make other writers wait after a failed attempt. A commit that removes files of a table
            with many writers could otherwise fail without end.
    """

    added: list[DataFile]
    removed: Callable[[Table], Iterable[DataFile]] = _no_files
    properties: Callable[[Table], Mapping[str, str]] = _nothing
    facts: Callable[[Table], Mapping[str, str]] = _nothing
    merge: bool = False
    until: int | None = None
    first: bool = False
    snapshot_id: int | None = None


def commit(load: Callable[[], Table], changes: FileChanges, *, where: str) -> IcebergSnapshot:
    """Commits the changes as one snapshot and returns it.

    Args:
        load: loads the table from the catalog.
        changes: what to change.
        where: the table and catalog, for errors.

    Raises:
        Conflict: `changes.properties` or `changes.removed` raised it, or a file to remove no longer
            exists; nothing was committed.
        Unavailable: other writers were faster for a minute, or `until` has passed, and nothing was committed;
            or the catalog did not answer, and the table does not show the commit, which may still appear.
    """
    commit_id = new_id()
    reach("lake.before_commit")
    deadline = time.monotonic() + _DEADLINE
    backoff = Backoff(0.002, 0.25)
    table = _load_unmarked(load, changes)
    while True:
        if changes.until is not None and now_micros() > changes.until:  # checked after the table was loaded
            raise Unavailable("the rows were written too long ago", where=where, remedy="Try again.")
        try:
            snapshot_id = _try(table, changes, commit_id)
        except ValidationException as error:
            raise Conflict(str(error), where=where) from error
        except CommitFailedException as error:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "other writers kept changing the table", where=where, remedy="Try again."
                ) from error
            if changes.first:
                mark_first(table.catalog, load)
            else:
                time.sleep(backoff.next_pause())
        except (HeadraceError, *_REFUSED):
            raise
        except Exception as error:
            return _resolve_unknown(error, load, commit_id, where)
        else:
            reach("lake.after_commit")
            return _snapshot(table, snapshot_id)
        table = _load_unmarked(load, changes)
        if (committed := _find(table, commit_id)) is not None:
            return committed


def _load_unmarked(load: Callable[[], Table], changes: FileChanges) -> Table:
    """Loads the table; waits for a commit that makes other writers wait (FileChanges.first)."""
    table = load()
    end = time.monotonic() + MARKED_SECONDS
    while not changes.first and _is_marked(table) and time.monotonic() < end:
        time.sleep(0.02)
        table = load()
    return table


def _is_marked(table: Table) -> bool:
    ends = (name.removeprefix(FIRST) for name in table.refs() if name.startswith(FIRST))
    return any(int(end) > now_micros() for end in ends if end.isdecimal())


def _try(table: Table, changes: FileChanges, commit_id: str) -> int:
    properties = changes.properties(table)
    removed = list(changes.removed(table))
    facts = {**changes.facts(table), COMMIT_ID: commit_id}
    merging = {"commit.manifest.min-count-to-merge": "2"} if changes.merge else {}
    transaction = prepare_commit(table, merging).transaction()
    update = transaction.update_snapshot(snapshot_properties=facts)
    producer = update.overwrite() if removed else update.merge_append()
    if changes.snapshot_id is not None:
        set_snapshot_id(producer, changes.snapshot_id)
    if any(data_file.spec_id != table.spec().spec_id for data_file in removed):
        replace_manifests(producer)  # the table gets other partitions, so every file is removed
    for data_file in removed:
        producer.delete_data_file(data_file)
    for data_file in changes.added:
        producer.append_data_file(data_file)
    producer.commit()
    if properties:
        transaction.set_properties(dict(properties))
    transaction.commit_transaction()
    return producer.snapshot_id


def _snapshot(table: Table, snapshot_id: int) -> IcebergSnapshot:
    """The snapshot that was just committed, from the table object that the commit has updated."""
    snapshot = table.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise RuntimeError(f"the catalog's answer lacks the committed snapshot {snapshot_id}")
    return snapshot


def _resolve_unknown(
    error: Exception, load: Callable[[], Table], commit_id: str, where: str
) -> IcebergSnapshot:
    """Returns the snapshot if the table shows that the commit succeeded although the answer was an error."""
    try:
        committed = _find(load(), commit_id)
    except Exception:  # the catalog still cannot be reached: the first error is reported
        committed = None
    if committed is not None:
        return committed
    if isinstance(error, OperationalError) and _is_rolled_back(error.orig):
        raise error
    raise Unavailable(
        f"the commit's outcome is unknown: {type(error).__name__}: {error}",
        where=where,
        remedy="Read the position again before writing: if it has moved, the rows were committed.",
    ) from error


def _is_rolled_back(error: object) -> bool:
    """Whether SQLite certainly rolled the transaction back. After an I/O error that is unknown."""
    return is_locked(error) or "full" in str(error)


def _find(table: Table, commit_id: str) -> IcebergSnapshot | None:
    for snapshot in reversed(table.metadata.snapshots):
        if summary_of(snapshot).get(COMMIT_ID) == commit_id:
            return snapshot
    return None


def discard(table: Table, paths: Iterable[str]) -> None:
    """Deletes the data files of a commit that certainly did not happen, as far as they can be deleted."""
    for path in paths:
        try:
            table.io.delete(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            _logger.warning("%s is left for the removal of orphan files: %s", path, error)
