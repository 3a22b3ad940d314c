"""Computes tables in the process of the build: while the files of a piece are written, the next is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import attrs

from headrace.kernel.errors import HeadraceError
from headrace.tables.compute.port import Prepare, TableJob, WrittenPart, write_part, write_piece
from headrace.tables.compute.spill import spill_inputs
from headrace.tables.parts import Piece, compute_piece

__all__ = ["write_pieces"]


def write_pieces(job: TableJob, pieces: Sequence[Piece], prepare: Prepare) -> Iterator[WrittenPart]:
    """See Compute. Two pieces are in memory at once. If one fails, those before it are written and yielded."""
    with spill_inputs(job, pieces) as inputs_of, ThreadPoolExecutor(1, "write-piece") as thread:
        first = write_piece(job, pieces[0], prepare, inputs_of(pieces[0]))
        yield first
        job = attrs.evolve(job, columns=first.columns)
        writing: Future[WrittenPart] | None = None
        failure: HeadraceError | None = None
        for piece in pieces[1:]:
            try:
                part = compute_piece(job.project, job.lake, job.table, job.plan, piece, inputs_of(piece))
            except HeadraceError as error:
                failure = error
                break
            if writing is not None:
                yield writing.result()
            writing = thread.submit(write_part, job, piece, part)
        if writing is not None:
            yield writing.result()
        if failure is not None:
            raise failure
