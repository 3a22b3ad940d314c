"""Twin snapshots: the same rows, made in another lake, get the id of the snapshot that a pointer names.

A clone of a project with a lake of its own makes its tables again. If the rows are the same, so is the id. So
the pointers, which name it, stay as they are, and nothing that depends on them is stale.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pyarrow as pa
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["RowsDigest", "TwinSnapshot", "digest_rows"]


class TwinSnapshot(Struct, frozen=True):
    """A snapshot of another lake.

    Attributes:
        id: the snapshot.
        digest: the digest of its rows (digest_rows).
    """

    id: int
    digest: str

    @classmethod
    def id_for(cls, twin: TwinSnapshot | None, digest: str | None) -> int | None:
        """The id of the snapshot, if there is one and its rows have the digest; else None."""
        return twin.id if twin is not None and twin.digest == digest else None


class RowsDigest:
    """The digest of rows, in any order: of their columns, their types, and a hash of each row.

    The hashes are those of the installed version of polars, which is part of the digest: another version gives
    other digests, and so no twins.
    """

    def __init__(self) -> None:
        self._schema = pl.Schema()
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, rows: pa.Table) -> None:
        """Adds rows, which all have the same columns."""
        frame = pl.DataFrame(rows)
        self._schema = frame.schema
        self._hashes.append(frame.hash_rows(0).to_numpy())

    def text(self) -> str:
        """64 hexadecimal digits."""
        whole = hashlib.sha256(f"polars {pl.__version__}\n{dict(self._schema)}\n".encode())
        whole.update(np.sort(np.concatenate(self._hashes)).tobytes())
        return whole.hexdigest()


def digest_rows(rows: pa.Table) -> str:
    """The digest of a table's rows (RowsDigest)."""
    digest = RowsDigest()
    digest.add(rows)
    return digest.text()
