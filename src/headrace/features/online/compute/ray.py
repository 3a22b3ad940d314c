"""Computes the states of a view on Ray: a share of its keys is a task.

A worker reads the snapshot from the lake, keeps the rows of its share, and sends the packed states back. The
process of the build alone writes to the online store.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import msgspec

from headrace.cluster.connection import connect
from headrace.cluster.tasks import cpus, run_tasks
from headrace.config.settings import Settings
from headrace.features.online.compute.local import LocalStates
from headrace.features.online.compute.port import ComputedStates, StateJob, compute_states
from headrace.lake import open as open_lake

__all__ = ["RayStates"]

_ALONE = 100_000  # rows that one process packs while Ray would start


class _Task(msgspec.Struct, frozen=True):
    """What a worker is sent."""

    settings: Settings
    job: StateJob
    share: int
    shares: int


@attrs.frozen
class RayStates:
    """A StateCompute on the project's Ray. A small table, and one whose rows have no key, need no Ray.

    Attributes:
        settings: the project's settings.
    """

    settings: Settings

    def __call__(self, job: StateJob) -> Iterator[ComputedStates]:
        """See StateCompute."""
        if job.rows < _ALONE or not job.view.keys:
            yield from LocalStates(open_lake(self.settings))(job)
            return
        with connect(self.settings):
            shares = cpus()
            tasks = (_Task(self.settings, job, share, shares) for share in range(shares))
            yield from run_tasks(_compute, tasks, lambda task: f"the states of view {task.job.view.name}")


def _compute(task: _Task) -> ComputedStates:
    """Runs on a worker."""
    table = open_lake(task.settings).table(task.job.view.table).scan(task.job.snapshot)
    return compute_states(task.job, table, share=task.share, shares=task.shares)
