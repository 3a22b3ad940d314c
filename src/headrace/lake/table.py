"""One table of the lake: read at a snapshot, and written in single commits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from headrace.kernel.position import Position
from headrace.lake.reader import TableReader
from headrace.lake.snapshot import Snapshot

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from headrace.lake.changes import PartitionColumn
    from headrace.lake.files import WrittenFile

__all__ = ["Expected", "LakeTable", "Texts"]

Texts: TypeAlias = Mapping[str, str] | Callable[[Mapping[str, str]], Mapping[str, str]]
"""Names and values; or a function that returns them, given the table's properties at the time of the commit."""

Expected: TypeAlias = Mapping[str, str | None]
"""Properties and the values that they must have; None: the property must not exist."""


class LakeTable(TableReader):
    """A table of the lake. Safe to use from several threads and processes at once.

    Reading and writing are separate modules: only a write imports PyIceberg, unless the catalog needs it.
    """

    def append(
        self,
        rows: pa.Table,
        *,
        position: tuple[str, Position | None, Position] | None = None,
        facts: Texts | None = None,
        properties: Texts | None = None,
    ) -> Snapshot:
        """Adds the rows and moves a position, in one commit.

        Args:
            rows: columns of the table, by name; those they lack become null. Without rows only the
                position moves.
            position: (name, the expected position, the new position).
            facts: entries of the snapshot's summary; their names begin with `headrace.` by convention.
            properties: set on the table in the same commit.

        Returns:
            The snapshot. If the catalog's answer was lost, the table is read again to find out whether the
            snapshot was committed.

        Raises:
            Conflict: the stored position is not the expected one, for the log partitions that move (other
                writers may have moved others); nothing was written.
            CallError: the rows have a column that the table lacks.
            Unwritable: a value that the table cannot hold; nothing was written.
            Unavailable: the catalog is locked or cannot be reached. The rows may have been written. A caller
                with a position can read it again and continue from there.
        """
        from headrace.lake.write import append

        return append(self, rows, position=position, facts=facts, properties=properties)

    def overwrite(
        self,
        rows: pa.Table | Sequence[WrittenFile],
        *,
        partitions: tuple[PartitionColumn, Collection[int]] | None = None,
        written_at: int | None = None,
        facts: Texts | None = None,
        properties: Texts | None = None,
        expect: Expected | None = None,
        snapshot_id: int | None = None,
    ) -> Snapshot:
        """Replaces all rows, or exactly the rows of some partitions, in one commit.

        Args:
            rows: as for `append`; or files that `write` has written, which are deleted if the commit fails. A
                partition of `partitions` without rows is empty afterwards.
            partitions: the column with Iceberg's transform, and the numbers of its partitions; the table must
                be partitioned so, and every row must lie in one of them. Files of others are not touched.
            written_at: of files: when the first was written, in microseconds since 1970.
            facts: as for `append`.
            properties: as for `append`.
            expect: properties that must have these values (None: must not exist).
            snapshot_id: the id of the new snapshot, which the table must not have: that of a snapshot of
                another lake that holds the same rows. None: a new id.

        Raises:
            CallError: as for `append`; a row is outside `partitions`; the table is not partitioned so.
            Conflict: a property is not as expected, or a file of `rows` no longer exists; nothing was written.
            Unavailable: the catalog is locked or cannot be reached; or the files were written too long ago.
        """
        from headrace.lake.write import overwrite

        return overwrite(
            self,
            rows,
            partitions=partitions,
            facts=facts,
            properties=properties,
            expect=expect,
            written_at=written_at,
            snapshot_id=snapshot_id,
        )

    def write(self, pieces: Iterable[pa.Table]) -> list[WrittenFile]:
        """Writes rows to data files of no snapshot, for `overwrite`. No reader sees them before.

        Each piece is written before the next is computed. After an error none of the files is left.

        Raises:
            CallError: the rows have a column that the table lacks.
            Unwritable: a value that the table cannot hold.
            Unavailable: the catalog is locked or cannot be reached.
        """
        from headrace.lake.write import write

        return write(self, pieces)

    def has_files(self, files: Sequence[WrittenFile]) -> bool:
        """Whether all of these files that `write` has written still exist.

        Raises:
            CallError: the table does not exist.
            Unavailable: the catalog or the warehouse cannot be reached.
        """
        from headrace.lake.write import has_files

        return has_files(self, files)

    def scan_files(self, files: Sequence[WrittenFile]) -> pl.LazyFrame:
        """The rows of files that `write` has written: of local files not yet read, of others in memory.

        Raises:
            FileNotFoundError: a file no longer exists.
        """
        from headrace.lake.write import scan_files

        return scan_files(self, files)

    def set_properties(self, properties: Mapping[str, str], *, expect: Expected | None = None) -> None:
        """Sets properties of the table, without a snapshot; with `expect` as for `overwrite`.

        Raises:
            Conflict: a property is not as expected; or other writers kept changing the table.
        """
        from headrace.lake.write import set_properties

        set_properties(self, properties, expect)

    def create_tag(self, name: str, snapshot: int, *, move: bool = True) -> None:
        """Tags a snapshot, so that it does not expire.

        Args:
            name: the tag.
            snapshot: the snapshot's id.
            move: whether an existing tag of this name moves to the snapshot.

        Raises:
            CallError: the table has no such snapshot (it may have expired), or the tag must not move.
            Conflict: other writers kept changing the table.
        """
        from headrace.lake.write import create_tag

        create_tag(self, name, snapshot, move=move)

    def remove_tag(self, name: str) -> None:
        """Removes a tag, if it exists. Raises Conflict as `create_tag`."""
        from headrace.lake.write import remove_tag

        remove_tag(self, name)

    def rollback_to_snapshot(self, snapshot: int) -> Snapshot:
        """Makes a former snapshot current again: rows, columns, and the properties committed with it.

        Raises CallError as `snapshot`, and Conflict as `create_tag`.
        """
        from headrace.lake.write import rollback_to_snapshot

        return rollback_to_snapshot(self, snapshot)
