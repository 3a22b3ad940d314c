"""Seasonal naive: the target of the same entity a season earlier (Hyndman and Athanasopoulos, Forecasting:
Principles and Practice, section 5.2, https://otexts.com/fpp3/simple-methods.html)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.baselines import SeasonalNaive
from headrace.training.splits.port import MOMENT

__all__ = ["predict_seasonal_naive"]


def predict_seasonal_naive(
    baseline: SeasonalNaive, known: pl.DataFrame, part: pl.DataFrame, target: str, keys: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Predicts each row by the known row of its entities k seasons earlier, with the least k for which that
    moment is before the part (see the port).

    Several known rows of one entity at one moment count by their mean. Without such a row it is the mean of
    the entity's known targets, and for an entity without any the mean of all.
    """
    season = baseline.season // timedelta(microseconds=1)
    micros, value = pl.col(MOMENT).dt.epoch("us"), pl.col(target).cast(pl.Float64)
    since = micros - part[MOMENT].dt.epoch("us").min()  # from the first moment of the part: 0 or more
    earlier = (micros - (since // season + 1) * season).alias("__earlier")
    seasonal = known.group_by(*keys, micros.alias("__earlier")).agg(__seasonal=value.mean())
    means = known.group_by(*keys).agg(__mean=value.mean())
    rows = (
        part.select(*keys, earlier)
        .join(seasonal, on=[*keys, "__earlier"], how="left", maintain_order="left")
        .join(means, on=list(keys), how="left", maintain_order="left")
        .select(pl.coalesce("__seasonal", "__mean", pl.lit(known[target].mean())).alias("value"))
    )
    return rows["value"].to_numpy()
