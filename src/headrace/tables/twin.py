"""Twin snapshots: the same rows, made in another lake, get the id of the snapshot that a pointer names.

A clone of a project with a lake of its own makes its tables again. If the rows are the same, so is the id. So
the pointers, which name it, stay as they are, and nothing that depends on them is stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa
from msgspec import Struct

__all__ = ["RowsDigest", "TwinSnapshot"]


class TwinSnapshot(Struct, frozen=True):
    """A snapshot of another lake.

    Attributes:
        id: the snapshot.
        digest: the digest of its rows (RowsDigest).
    """

    id: int
    digest: str


class RowsDigest:
    """The digest of rows, in any order: of their columns, their types, and a hash of each row.

    The hashes are those of the installed version of polars, which is part of the digest: another version gives
    other digests, and so no twins.

    Args:
        twin: the snapshot that may hold the same rows, or None.
    """

    def __init__(self, twin: TwinSnapshot | None = None) -> None:
        self._twin = twin
        self._schema = ""
        self._hashes: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []

    def read(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Passes the parts on, and adds their rows."""
        for part in parts:
            frame = pl.DataFrame(part)
            self._schema = str(dict(frame.schema))
            self._hashes.append(frame.hash_rows(0).to_numpy())
            yield part

    @property
    def value(self) -> str:
        """The digest of the rows so far: 64 hexadecimal digits."""
        whole = hashlib.sha256(f"polars {pl.__version__}\n{self._schema}\n".encode())
        whole.update(np.sort(np.concatenate(self._hashes)).tobytes())
        return whole.hexdigest()

    def snapshot_id(self) -> int | None:
        """The id of the twin if it holds the same rows; else None."""
        return self._twin.id if self._twin is not None and self._twin.digest == self.value else None
