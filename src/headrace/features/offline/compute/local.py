"""Computes features in this process: a part at a time, each on all of the machine's cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import polars as pl

from headrace.features.aggregates.column import Ints
from headrace.features.offline.compute.port import ViewJob, compute_share

__all__ = ["LocalCompute"]


@attrs.frozen
class LocalCompute:
    """A FeatureCompute in this process.

    Attributes:
        read: returns the rows of the table with the given name.
    """

    read: Callable[[str], pl.LazyFrame]

    def __call__(self, job: ViewJob) -> Iterator[tuple[Ints, pl.DataFrame]]:
        """See FeatureCompute."""
        yield from compute_share(job, self.read(job.view.table))
