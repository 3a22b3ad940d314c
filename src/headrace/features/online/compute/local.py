"""Computes the states of a view in this process."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from headrace.features.online.compute.port import ComputedStates, StateJob, compute_states
from headrace.lake import Lake

__all__ = ["LocalStates"]


@attrs.frozen
class LocalStates:
    """A StateCompute in this process.

    Attributes:
        lake: the lake that has the view's table.
    """

    lake: Lake

    def __call__(self, job: StateJob) -> Iterator[ComputedStates]:
        """See StateCompute."""
        yield compute_states(job, self.lake.table(job.view.table).scan(job.snapshot))
