"""The baselines, a module each. A new baseline is a module, a declaration, and a line in `_BASELINES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.baselines import Baseline, SeasonalNaive
from headrace.training.baselines.port import PredictBaseline
from headrace.training.baselines.seasonal_naive import predict_seasonal_naive

__all__ = ["predict_baseline"]

_BASELINES: Mapping[type[Baseline], PredictBaseline] = {SeasonalNaive: predict_seasonal_naive}


def predict_baseline(
    baseline: Baseline, known: pl.DataFrame, part: pl.DataFrame, target: str, keys: Sequence[str]
) -> npt.NDArray[np.float64]:
    """The baseline's predictions for each row of a part (see the port)."""
    return _BASELINES[type(baseline)](baseline, known, part, target, keys)
