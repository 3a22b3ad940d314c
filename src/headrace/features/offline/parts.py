"""The point-in-time join of more rows than memory holds: the same join, by parts of the join keys.

The features of each view are computed by parts (compute.port) and kept in files. The labels come back in their
order, in pieces. Each feature equals that of `join`, to the bit, because a kernel's result for a label depends
on the rows of its key alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.features.aggregates.column import Ints
from headrace.features.offline.columns import check_tables
from headrace.features.offline.compute.port import (
    COPIES,
    FeatureCompute,
    ViewJob,
    count_parts,
    count_rows,
    value_width,
)
from headrace.features.offline.point_in_time import MOMENT, FailureLimits, add_on_demand, convert_labels, join
from headrace.features.plan import FeaturePlan, StoredView
from headrace.features.values.columns import POLARS
from headrace.features.values.on_demand import OnDemandError

__all__ = ["join_in_pieces"]


def join_in_pieces(
    labels: pl.DataFrame,
    plan: FeaturePlan,
    read: Callable[[str], pl.LazyFrame],
    *,
    folder: Path,
    memory: int,
    compute: FeatureCompute,
    failed: dict[int, OnDemandError],
) -> Iterator[pl.DataFrame]:
    """Joins labels with the plan's features in bounded memory.

    The labels themselves are in memory, and so is a table of a database's changes, because a truncate concerns
    every key.

    Args:
        labels, plan, read, failed: as for `join`.
        folder: an empty folder for files of about the size of the views' tables. The caller removes it.
        memory: how many bytes the join may take beside the labels. If all fits, `join` makes one piece.
        compute: computes the features of a view, if not all fits.

    Yields:
        What `join` returns, in consecutive pieces.

    Raises:
        ProjectError, OnDemandError: as for `join`.
    """
    rows = convert_labels(labels, plan)
    check_tables(plan, read)
    width = sum(value_width(dtype) for dtype in [*labels.dtypes, *(feature.dtype for feature in plan.features)])
    pieces = max(-(-len(labels) * width * COPIES // memory), 1)
    jobs = [
        ViewJob(view, plan, rows.select(*view.keys, MOMENT), memory, folder / view.name) for view in plan.stored
    ]
    if pieces == 1 and all(count_parts(job, count_rows(read(job.view.table))) == 1 for job in jobs):
        yield join(labels, plan, read, failed=failed)
        return
    bounds = np.linspace(0, len(labels), pieces + 1).astype(np.int64)
    spilled = []
    for job in jobs:
        job.folder.mkdir()
        spill = _Spill(job.view, job.folder, bounds)
        for indexes, features in compute(job):
            spill.add(indexes, features)
        shutil.rmtree(job.folder / "rows", ignore_errors=True)
        spilled.append(spill)
    limits = FailureLimits(len(labels))
    for index, (begin, end) in enumerate(pairwise(bounds)):
        columns = {name: column for spill in spilled for name, column in spill.piece(index).items()}
        errors: dict[int, OnDemandError] = {}
        add_on_demand(plan, rows[begin:end], columns, errors, limits)
        failed |= {int(begin) + row: error for row, error in errors.items()}
        yield labels[begin:end].with_columns(columns[f.column].alias(f.column) for f in plan.features)


class _Spill:
    """The features of one view, in files.

    Args:
        view: the view.
        folder: an existing folder for the files.
        bounds: where the pieces of the labels begin and end.
    """

    def __init__(self, view: StoredView, folder: Path, bounds: Ints) -> None:
        self._view, self._folder, self._bounds = view, folder, bounds
        self._indexes: list[Ints] = []

    def add(self, indexes: Ints, features: pl.DataFrame) -> None:
        """Writes the features of these labels, a batch for each piece of the labels."""
        rows = features.to_arrow(compat_level=pl.CompatLevel.oldest())
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        cuts = np.searchsorted(indexes, self._bounds).tolist()
        with (
            pa.OSFile(str(self._path(len(self._indexes))), "wb") as file,
            pa.ipc.new_file(file, rows.schema, options=options) as writer,
        ):
            for begin, end in pairwise(cuts):
                batches = rows.slice(begin, end - begin).combine_chunks().to_batches()
                writer.write_batch(
                    batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
                )
        self._indexes.append(indexes)

    def piece(self, index: int) -> dict[str, pl.Series]:
        """Column (`view__feature`) → the values of the labels of one piece."""
        frames, places = [], []
        for number, indexes in enumerate(self._indexes):
            with pa.OSFile(str(self._path(number)), "rb") as file:
                frames.append(pl.DataFrame(pa.ipc.open_file(file).get_batch(index)))
            begin, end = np.searchsorted(indexes, self._bounds[index : index + 2])
            places.append(indexes[begin:end])
        features = pl.concat(frames)[np.argsort(np.concatenate(places))]
        return {
            f"{self._view.name}__{field.name}": features[field.name].cast(POLARS[field.dtype])
            for field in self._view.features
        }

    def _path(self, number: int) -> Path:
        return self._folder / f"features-{number}.arrow"
