"""Baselines: predictions without a model, which a model should beat.

This module only declares; `training.baselines` predicts.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from headrace.declare.convert import to_duration
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Baseline", "SeasonalNaive"]


@attrs.frozen
class Baseline:
    """The base class of every baseline's declaration."""


@attrs.frozen
class SeasonalNaive(Baseline):
    """The target of the same entity one season earlier, or as many seasons earlier as lead to before the part.

    Where that row is missing it is the mean of the entity's earlier targets, and for an unknown entity the mean
    of all. The split must be by time.

    Attributes:
        season: the length of a season: `364d` for weekly data with a yearly season.

    Raises:
        ProjectError: `season` is not a positive duration.
    """

    season: timedelta = attrs.field(converter=to_duration)

    def __attrs_post_init__(self) -> None:
        if self.season <= timedelta(0):
            raise ProjectError(f"season={self.season} must be positive", where=str(Place.of_caller()))
