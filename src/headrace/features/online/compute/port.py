"""The port of computing the states of all entities of an as-of view from a snapshot of its table.

The state of an entity needs the rows of its key alone. So keys are hashed into shares, each of which is a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import attrs
import polars as pl

from headrace.features.offline.compute.port import part_of
from headrace.features.offline.point_in_time import states, unique_rows
from headrace.features.online.batches import pack_rows
from headrace.features.online.keys import KeySchema, PackedState
from headrace.features.plan import AsOfView
from headrace.features.values.columns import POLARS
from headrace.kernel.foreign import check_version

__all__ = ["ComputedStates", "StateCompute", "StateJob", "compute_states"]


@attrs.frozen
class StateJob:
    """What is computed.

    Attributes:
        view: the view.
        keys: its join keys.
        snapshot: the snapshot of its table.
        rows: how many rows the snapshot has.
        now: the wall clock, microseconds.
    """

    view: AsOfView
    keys: KeySchema
    snapshot: int
    rows: int
    now: int


class ComputedStates(NamedTuple):
    """The states of some entities, and how many rows of the table they have together."""

    rows: int
    states: list[PackedState]


class StateCompute(Protocol):
    """Computes the states of all entities. Yields each entity once.

    Raises:
        ProjectError: the table does not have the columns of the view, of its types.
        Unavailable: what computes them does not answer.
    """

    def __call__(self, job: StateJob) -> Iterator[ComputedStates]: ...


def compute_states(job: StateJob, table: pl.LazyFrame, *, share: int = 0, shares: int = 1) -> ComputedStates:
    """Computes the states of the entities whose keys are hashed into one share; `table` has the rows of all."""
    check_version("polars")
    rows = states(job.view, table)
    if shares > 1:
        dtypes = pl.Schema({name: POLARS[dtype] for name, dtype in job.keys.columns})
        rows = rows.filter(part_of(job.view, dtypes, shares) == share)
    visible = unique_rows(job.view, rows).collect()
    return ComputedStates(
        len(visible), pack_rows(job.view, job.keys, visible.to_arrow(), job.snapshot, job.now)
    )
