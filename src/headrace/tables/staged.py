"""The data files that a build has written and not published yet, so that the next build continues a killed one.

A journal in the state folder, beside the lake, names them, a line for each piece of the table. It is valid
as long as everything that the rows depend on is as it was: the plan, the code, and the table that they are for.
Files of a journal that is no longer valid are left to the removal of orphan files, because a commit whose
answer was lost may have published them.
"""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path

import msgspec

from headrace.kernel.digest import digest_value
from headrace.kernel.faults import reach
from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.kernel.time import now_micros
from headrace.lake import Lake, LakeTable
from headrace.lake.files import WrittenFile
from headrace.tables.compute.port import WrittenPart
from headrace.tables.failures import FailedRow
from headrace.tables.parts import PIECE_LIMITS
from headrace.tables.plan import RebuildPlan
from headrace.tables.twin import RowsDigest

__all__ = ["StagedParts"]

_MAX_AGE = 12 * 3_600_000_000  # microseconds: older files may be removed as orphans before they are published


class _Header(msgspec.Struct, frozen=True):
    key: str
    written_at: int


class StagedParts:
    """The files that the build of one table has written so far.

    Args:
        lake: the lake.
        plan: the plan of the build.
        code: the fingerprint of the table's code.

    Attributes:
        written_at: when the first file was written, in microseconds since 1970.
    """

    def __init__(self, lake: Lake, plan: RebuildPlan, code: str) -> None:
        self._lake, self._plan, self._code = lake, plan, code
        self._path: Path = lake.folder.with_name("staged") / f"{plan.table}.jsonl"
        self._parts: list[WrittenPart] = []
        self.written_at = now_micros()
        self._load()

    @property
    def numbers(self) -> list[list[int]]:
        """The numbers of the pieces that are written."""
        return [part.numbers for part in self._parts]

    @property
    def partitions(self) -> int:
        """How many partitions are written."""
        return sum(len(part.numbers) for part in self._parts)

    @property
    def files(self) -> list[WrittenFile]:
        """The files."""
        return [file for part in self._parts for file in part.files]

    @property
    def columns(self) -> list[str]:
        """The columns of the first piece; none if nothing is written yet."""
        return self._parts[0].columns if self._parts else []

    @property
    def failed(self) -> list[FailedRow]:
        """The rows of the input that a rowwise function failed on. Two pieces may read one input partition."""
        failed: list[FailedRow] = []
        known: set[str | None] = set()
        for part in self._parts:
            failed += [row for row in part.failed if row.partition is None or row.partition not in known]
            known |= {row.partition for row in part.failed}
        return failed

    @property
    def rows_read(self) -> int:
        """How many rows of the input the pieces of a table without partitions have read."""
        return sum(part.rows_read for part in self._parts)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is written yet."""
        return not self._parts

    @property
    def digest(self) -> str | None:
        """The digest of all rows (tables.twin), if the table is made as a whole and not from topics."""
        digests = [part.digest for part in self._parts if part.digest is not None]
        if not digests or len(digests) < len(self._parts):
            return None
        return reduce(RowsDigest.join, digests).text

    def add(self, part: WrittenPart) -> None:
        """Records files that are written. The first call must come after the table has its columns."""
        if not self._parts:
            self.written_at = now_micros()
            make_private(self._path.parent)
            write_file(self._path, msgspec.json.encode(_Header(self._key(), self.written_at)) + b"\n")
        with self._path.open("ab") as journal:
            journal.write(msgspec.json.encode(part) + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._parts.append(part)
        reach("tables.after_part")

    def remove(self) -> None:
        """Forgets the files: they are published, or deleted."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is half written
        try:
            header = msgspec.json.decode(lines[0], type=_Header)
            parts = [msgspec.json.decode(line, type=WrittenPart) for line in lines[1:]]
        except (IndexError, msgspec.MsgspecError):  # another version wrote it
            return
        is_young = 0 <= now_micros() - header.written_at < _MAX_AGE  # below 0: the clock was set back
        files = [file for part in parts for file in part.files]
        if is_young and header.key == self._key() and self._exist(files):
            self._parts, self.written_at = parts, header.written_at

    def _exist(self, files: list[WrittenFile]) -> bool:
        """Whether all files are there: a machine whose clock is ahead removes them too early."""
        return not files or self._lake.table(self._plan.table).has_files(files)

    def _key(self) -> str:
        """The digest of what the rows depend on."""
        plan = self._plan
        if not self._lake.table_exists(plan.table):
            return ""
        table: LakeTable = self._lake.table(plan.table)
        snapshot = table.current_snapshot()
        return digest_value(
            [
                plan.properties(self._code),
                plan.expect,
                plan.whole,
                plan.partitions,
                PIECE_LIMITS,
                table.uuid(),
                str(table.schema()),
                table.partition_by(),
                None if snapshot is None else snapshot.id,
            ]
        )
