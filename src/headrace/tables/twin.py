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

__all__ = ["RowsDigest", "TwinSnapshot"]

_MODULUS = 1 << 64


class TwinSnapshot(Struct, frozen=True):
    """A snapshot of another lake.

    Attributes:
        id: the snapshot.
        digest: the digest of its rows (RowsDigest.text).
    """

    id: int
    digest: str

    @classmethod
    def id_for(cls, twin: TwinSnapshot | None, digest: str | None) -> int | None:
        """The id of the snapshot, if there is one and its rows have the digest; else None."""
        return twin.id if twin is not None and twin.digest == digest else None


class RowsDigest(Struct, frozen=True):
    """The digest of rows, in any order and however they are divided.

    Each row has two hashes of 64 bits, and the digest is their sums, so it does not depend on the order of the
    rows, nor on which of them were made together.

    Attributes:
        columns: the columns with their types; several if parts have different types.
        rows: how many rows there are.
        sums: the sums of their hashes, modulo 2^64.
    """

    columns: tuple[str, ...] = ()
    rows: int = 0
    sums: tuple[int, int] = (0, 0)

    def add(self, rows: pa.Table) -> RowsDigest:
        """The digest of these rows and further ones."""
        frame = pl.DataFrame(rows)
        sums = tuple(int(frame.hash_rows(seed).to_numpy().sum(dtype=np.uint64)) for seed in (0, 1))
        return self.join(RowsDigest((str(dict(frame.schema)),), frame.height, (sums[0], sums[1])))

    def join(self, other: RowsDigest) -> RowsDigest:
        """The digest of the rows of both."""
        sums = [(here + there) % _MODULUS for here, there in zip(self.sums, other.sums, strict=True)]
        columns = tuple(sorted({*self.columns, *other.columns}))
        return RowsDigest(columns, self.rows + other.rows, (sums[0], sums[1]))

    @property
    def text(self) -> str:
        """64 hexadecimal digits. The hashes are those of the installed version of polars, which is part of the
        digest: another version gives other digests, and so no twins."""
        parts = f"polars {pl.__version__}\n{self.columns}\n{self.rows}\n{self.sums}"
        return hashlib.sha256(parts.encode()).hexdigest()
