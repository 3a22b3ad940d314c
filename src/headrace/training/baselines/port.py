"""The port of a baseline: predictions from earlier labels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["PredictBaseline"]

PredictBaseline = Callable[[Any, pl.DataFrame, pl.DataFrame, str, Sequence[str]], npt.NDArray[np.float64]]
"""Predicts the target of each row of a part, as float64 (n,).

Takes the declaration (declare.baselines), the labelled rows that are known where the part begins, the rows of
the part, the target's column, and the columns that name a row's entities. The rows have `event_timestamp`, the
target and these columns. The part's own targets must not be read.
"""
