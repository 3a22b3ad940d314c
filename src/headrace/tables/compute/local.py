"""Computes tables in the process of the build: a piece at a time, each on all of the machine's cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from headrace.tables.compute.port import Prepare, TableJob, WrittenPart, write_piece
from headrace.tables.compute.spill import spill_inputs
from headrace.tables.parts import Piece

__all__ = ["write_pieces"]


def write_pieces(job: TableJob, pieces: Sequence[Piece], prepare: Prepare) -> Iterator[WrittenPart]:
    """See Compute."""
    with spill_inputs(job, pieces) as inputs_of:
        first = write_piece(job, pieces[0], prepare, inputs_of(pieces[0]))
        yield first
        job = attrs.evolve(job, columns=first.columns)
        for piece in pieces[1:]:
            yield write_piece(job, piece, frames=inputs_of(piece))
