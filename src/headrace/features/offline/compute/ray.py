"""Computes features on Ray: a share of the view's keys is a task.

A worker reads the same snapshot of the lake as the build, and keeps the rows of its share. The labels are sent
to it, and it sends the features back, so that the machines of the cluster need no folder in common.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs
import msgspec
import numpy as np
import polars as pl

from headrace.cluster.connection import connect
from headrace.cluster.tasks import cpus, run_tasks
from headrace.config.settings import Settings
from headrace.features.aggregates.column import Ints
from headrace.features.offline.compute.port import ViewJob, compute_share, divide
from headrace.kernel.scratch import make_scratch
from headrace.lake import open as open_lake

__all__ = ["RayCompute"]

_SHARES = 2  # tasks for each CPU, so that no worker waits long for the largest share


class _Task(msgspec.Struct, frozen=True):
    """What a worker is sent.

    Attributes:
        settings: the project's settings.
        snapshot: the snapshot of the view's table.
        is_topic: whether only its good rows count.
        job: the job with the labels of the share alone.
        share, shares: the share, and how many there are.
    """

    settings: Settings
    snapshot: int
    is_topic: bool
    job: ViewJob
    share: int
    shares: int


class _Result(msgspec.Struct, frozen=True):
    share: int
    features: pl.DataFrame


@attrs.frozen
class RayCompute:
    """A FeatureCompute on the project's Ray.

    Attributes:
        settings: the project's settings.
        snapshots: table → the snapshot to read.
        topics: the tables of topics, of which only good rows count.
    """

    settings: Settings
    snapshots: dict[str, int]
    topics: frozenset[str]

    def __call__(self, job: ViewJob) -> Iterator[tuple[Ints, pl.DataFrame]]:
        """See FeatureCompute."""
        name = job.view.table
        with connect(self.settings):
            shares = cpus() * _SHARES if job.view.keys else 1
            indexes = divide(job, shares)
            tasks = (
                _Task(
                    self.settings,
                    self.snapshots[name],
                    name in self.topics,
                    attrs.evolve(job, rows=job.rows[indexes[share]]),
                    share,
                    shares,
                )
                for share in range(shares)
                if len(indexes[share])
            )
            for result in run_tasks(_compute, tasks, lambda task: f"the features of view {task.job.view.name}"):
                yield indexes[result.share], result.features


def _compute(task: _Task) -> _Result:
    """Runs on a worker, beside as many others as its machine has CPUs."""
    table = open_lake(task.settings).table(task.job.view.table).scan(task.snapshot)
    if task.is_topic:
        table = table.filter("_valid")
    with make_scratch() as folder:
        memory = max(task.job.memory // (os.cpu_count() or 1), 1)
        job = attrs.evolve(task.job, memory=memory, folder=folder)
        parts = compute_share(job, table, share=task.share, shares=task.shares)
        indexes, features = zip(*parts, strict=True)
    return _Result(task.share, pl.concat(features)[np.argsort(np.concatenate(indexes))])
