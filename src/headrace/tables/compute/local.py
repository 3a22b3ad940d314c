"""Computes tables in the process of the build: a piece at a time, each on all of the machine's cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.tables.compute.port import TableJob, WrittenPart, write_piece
from headrace.tables.parts import Piece

__all__ = ["write_pieces"]


def write_pieces(job: TableJob, pieces: Sequence[Piece]) -> Iterator[WrittenPart]:
    """See Compute."""
    for piece in pieces:
        yield write_piece(job, piece)
