"""What readers of a project see: one record that names, for each table that builds make, its visible snapshot.

A build commits its tables one after another and writes the record once, so readers see all of them together.
The record is in the summary of the newest snapshot of a table of Headrace's own, without rows: every catalog
replaces a table's metadata in one step, on the condition that nobody else has.

A snapshot that the record names has a tag, so that it does not expire while newer ones are not visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.properties import CODE, ROWS_OF, VISIBLE
from headrace.lake.file_errors import name_file_errors

if TYPE_CHECKING:
    import polars as pl

    from headrace.lake.lake import Lake
    from headrace.lake.snapshot import Snapshot
    from headrace.lake.table import LakeTable
    from headrace.lake.table_state import TableState

__all__ = [
    "TABLE",
    "VisibleRecord",
    "VisibleTables",
    "hide_table",
    "keep_snapshots",
    "read_record",
    "release_snapshots",
    "write_record",
]

TABLE = "headrace_visible"
_TRIES = 20
_TAG = "headrace-visible-"  # and the snapshot's id


class VisibleRecord(msgspec.Struct, frozen=True):
    """What readers see.

    Attributes:
        tables: table → its visible snapshot. A table that a build made and that is not in it is not visible.
        waiting: table whose newest rows are not visible yet → why.
        made_with: table → the tables that its visible rows were made or audited with.
    """

    tables: dict[str, int] = {}
    waiting: dict[str, str] = {}
    made_with: dict[str, list[str]] = {}

    def encode(self) -> str:
        """The record as JSON; equal records have equal texts."""
        return msgspec.json.encode(self, order="deterministic").decode()


_decode = msgspec.json.Decoder(VisibleRecord).decode


def read_record(lake: Lake) -> VisibleRecord | None:
    """The record; None if no build has written one.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    with name_file_errors(lake.where, TABLE):
        table = lake.reader.find(TABLE)
    text = None if table is None else table.metadata.properties.get(VISIBLE)
    return None if text is None else _decode(text)


def write_record(lake: Lake, record: VisibleRecord, expect: VisibleRecord | None) -> None:
    """Writes the record.

    Args:
        lake: the lake.
        record: the new record.
        expect: the present one; None: there is none.

    Raises:
        Conflict: another build has written the record; nothing was written.
        Unavailable: the catalog is locked or cannot be reached. The record may have been written.
    """
    import pyarrow as pa

    expected, text = None if expect is None else expect.encode(), record.encode()

    def replace(current: Mapping[str, str]) -> dict[str, str]:
        if current.get(VISIBLE) != expected:
            raise Conflict("another build has made tables visible", where=lake.where, remedy="Build again.")
        return {VISIBLE: text}

    table = lake.ensure(TABLE, pa.schema([("table", pa.string())]))
    table.append(table.schema().empty_table(), facts={VISIBLE: text}, properties=replace)


def hide_table(lake: Lake, name: str) -> None:
    """Takes a table that is about to be dropped out of the record.

    Raises:
        Conflict: a build kept writing the record.
    """
    for _ in range(_TRIES):
        record = read_record(lake)
        if record is None or name not in {*record.tables, *record.waiting}:
            return
        tables = {table: snapshot for table, snapshot in record.tables.items() if table != name}
        waiting = {table: why for table, why in record.waiting.items() if table != name}
        made_with = {table: others for table, others in record.made_with.items() if table != name}
        try:
            write_record(lake, VisibleRecord(tables, waiting, made_with), record)
        except Conflict:
            continue
        return
    raise Conflict("builds kept making tables visible", where=lake.where, remedy="Try again.")


def keep_snapshots(lake: Lake, tables: Mapping[str, int]) -> None:
    """Keeps these snapshots (table → id) from expiring. Call it before the record that names them is written.

    Raises:
        CallError: a table does not have the snapshot.
        Conflict: other writers kept changing the table.
    """
    for name, snapshot in tables.items():
        lake.table(name).create_tag(f"{_TAG}{snapshot}", snapshot)


def release_snapshots(lake: Lake, tables: Mapping[str, int]) -> None:
    """Lets the snapshots of these tables expire that were visible before these ones (table → id).

    Readers that use them can finish, because a snapshot expires an hour after its successor at the earliest.

    Raises:
        Conflict: other writers kept changing the table.
    """
    for name, snapshot in tables.items():
        table = lake.table(name)
        for tag in table.tags():
            if tag.startswith(_TAG) and tag != f"{_TAG}{snapshot}":
                table.remove_tag(tag)


class VisibleTables:
    """The tables of a lake as readers see them. It reads the record once, so that all tables that are read by
    one object belong together.

    Topics' tables, training sets, and all tables of a lake without a record are read at their newest snapshot.

    Args:
        lake: the lake.

    Attributes:
        record: the record; None if no build has written one.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self.record = read_record(lake)

    def table(self, name: str) -> LakeTable:
        """The table of this name, with all its snapshots. Raises CallError: it does not exist."""
        return self._lake.table(name)

    def snapshot(self, name: str, at: int | str | datetime | None = None) -> Snapshot | None:
        """The snapshot of a table that readers see; None if nothing was ever written to it.

        Args:
            name: the table.
            at: the id or tag of a snapshot, visible or not; or an aware datetime: what readers saw then, if
                the record of that moment is left and has the table; else the table's newest snapshot then.

        Raises:
            CallError: the table does not exist or is not visible yet, or it does not have the snapshot.
        """
        table = self._lake.table(name)
        if isinstance(at, (int, str)):
            return table.snapshot(at)
        record = self.record if at is None else self._record_at(at)
        wanted = None if record is None else record.tables.get(name)
        if wanted is None and at is not None:
            return table.snapshot(at)
        if record is None or (wanted is None and table.property(CODE) is None):
            return table.current_snapshot()
        if wanted is None:
            raise CallError(
                f"table {name!r} is not visible yet"
                + (f": {record.waiting[name]}" if name in record.waiting else ""),
                where=self._lake.where,
                remedy="headrace build makes it visible, together with the tables that it is used with."
                ' Its newest rows: at="main".',
            )
        try:
            visible = table.snapshot(wanted)
        except CallError as error:
            if at is not None:
                raise
            raise CallError(
                f"snapshot {wanted}, which readers of the table see, does not exist any more",
                where=f"table {name}",
                remedy='headrace build makes the newest rows visible. To read them now: at="main".',
            ) from error
        current = table.current_snapshot()  # after a maintenance: the same rows in fewer files
        return current if current is not None and _rows_of(current) == _rows_of(visible) else visible

    def states(self, newest: Mapping[str, TableState]) -> tuple[dict[str, TableState], dict[str, str]]:
        """The states of tables as readers see them.

        Args:
            newest: table → its newest state; not of the record's own table.

        Returns:
            Table → its state, without a snapshot if readers see none; and table whose newest snapshot readers
            do not see → why.
        """
        states, waiting = dict(newest), {}
        for name, state in newest.items():
            if self.record is None or CODE not in state.properties or state.snapshot is None:
                continue
            if self.record.tables.get(name) in (state.snapshot, state.rows_snapshot):
                continue
            try:
                snapshot = self.snapshot(name)
            except CallError:
                snapshot = None
            if snapshot is None or snapshot.id != state.snapshot:
                seen = (None, 0, None) if snapshot is None else (snapshot.id, snapshot.rows, snapshot.at)
                values = dict(zip(("snapshot", "rows", "at"), seen, strict=True))
                states[name] = msgspec.structs.replace(state, **values)
                waiting[name] = self.record.waiting.get(name, "a build has not ended")
        return states, waiting

    def scan(self, name: str) -> pl.LazyFrame:
        """The rows of a table that readers see, not yet read. Raises CallError like `snapshot`."""
        snapshot = self.snapshot(name)
        return self._lake.table(name).scan(None if snapshot is None else snapshot.id)

    def _record_at(self, moment: datetime) -> VisibleRecord | None:
        """The record at the moment; None if there was none, or it has expired."""
        if self.record is None:
            return None
        try:
            snapshot = self._lake.table(TABLE).snapshot(moment)
        except CallError:
            return None
        return _decode(snapshot.summary[VISIBLE])


def _rows_of(snapshot: Snapshot) -> str:
    return snapshot.summary.get(ROWS_OF, str(snapshot.id))
