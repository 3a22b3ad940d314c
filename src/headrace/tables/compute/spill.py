"""Divides inputs among the pieces of a table by one pass over each, where every piece would read all of it.

So it is for a table by key, and for one by time whose input is divided otherwise: reading a part of it reads
all its files. The rows are in files of the state folder while the block runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from headrace.declare.partitioning import Partitioning
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.kernel.process import is_alive, mark_of
from headrace.tables.call import collect_frames
from headrace.tables.compute.port import TableJob
from headrace.tables.partitions import input_numbers
from headrace.tables.parts import Piece, group_files, read_inputs
from headrace.tables.read import TableInput, read_input

__all__ = ["spill_inputs"]

_FEW_BY_KEY, _FEW_BY_TIME = 2, 8  # so many pieces read an input as fast as it is divided: a hash takes longer
_OWNER = "owner"
_NUMBER = "__number"


@contextmanager
def spill_inputs(
    job: TableJob, pieces: Sequence[Piece]
) -> Iterator[Callable[[Piece], list[pl.LazyFrame] | None]]:
    """Yields what gives the inputs of a piece, of which a divided one has only rows that the piece reads; None:
    no input is divided.

    Raises:
        ProjectError: an input cannot be read.
    """
    partitioning, inputs = job.table.partition_by, job.plan.inputs
    divided = [] if partitioning is None else [n for n, read in enumerate(inputs) if _is_whole(job, read)]
    few = _FEW_BY_TIME if partitioning is not None and partitioning.is_time else _FEW_BY_KEY
    if partitioning is None or not divided or len(pieces) <= few:
        yield lambda _: None
        return
    frames = read_inputs(job.project, job.lake, job.table, job.plan, pieces[0])
    parent = job.project.settings.make_state() / "spill"
    _remove_dead(parent)
    folder = make_private(parent / new_id())
    (folder / _OWNER).write_text(mark_of())
    try:
        for number in divided:
            _divide(job, partitioning, number, pieces, folder)

        def inputs_of(piece: Piece) -> list[pl.LazyFrame]:
            return [
                _scan(folder, number, piece, frame) if number in divided else frame
                for number, frame in enumerate(frames)
            ]

        yield inputs_of
    finally:
        shutil.rmtree(folder)


def _is_whole(job: TableJob, read: TableInput) -> bool:
    """Whether reading a part of the input reads all its files."""
    partitioning = job.table.partition_by
    if partitioning is None or read.column is None:
        return False
    by_time = {column for column, transform in job.lake.table(read.name).partition_by() if _is_time(transform)}
    return not partitioning.is_time or read.column not in by_time


def _is_time(transform: str) -> bool:
    return transform in ("hour", "day", "month")


def _divide(
    job: TableJob, partitioning: Partitioning, number: int, pieces: Sequence[Piece], folder: Path
) -> None:
    """Writes the rows that each piece reads of an input to files of its own, some data files at a time."""
    read, declared = job.plan.inputs[number], job.project.inputs(job.table)[number]
    assert read.column is not None, "only an input with partitions is divided"
    assert read.snapshot is not None, "only a table or a topic has partitions"
    windows = [partitioning.window(piece.numbers[0], piece.numbers[-1]) for piece in pieces]
    for piece in pieces:
        _place(folder, number, piece).mkdir()
    for count, files in enumerate(group_files(job.lake, read.name, read.snapshot)):
        frame = read_input(job.project, job.lake, declared, read.snapshot, only=files)
        batch = collect_frames(job.table, [frame])[0]
        numbers = input_numbers(partitioning, read.column, batch.schema[read.column])
        number_of_row = batch.select(numbers.alias(_NUMBER)).to_series()
        for piece, (first, last) in zip(pieces, windows, strict=True):
            rows = batch.filter(number_of_row.is_between(first, last))
            if rows.height:
                rows.write_ipc(_place(folder, number, piece) / f"{count}.arrow", compression="lz4")


def _place(folder: Path, number: int, piece: Piece) -> Path:
    return folder / f"{number} {piece.numbers[0]}"


def _scan(folder: Path, number: int, piece: Piece, frame: pl.LazyFrame) -> pl.LazyFrame:
    files = sorted(_place(folder, number, piece).iterdir())
    return pl.scan_ipc(files) if files else frame.collect_schema().to_frame().lazy()


def _remove_dead(parent: Path) -> None:
    """Removes what killed builds have left."""
    for folder in parent.iterdir() if parent.is_dir() else ():
        owner = folder / _OWNER
        if not owner.is_file() or not is_alive(owner.read_text()):
            shutil.rmtree(folder, ignore_errors=True)
