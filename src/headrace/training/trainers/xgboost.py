"""XGBoost: fits a booster, keeps it as `model.ubj`, and loads it without XGBoost's Python package."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.declare.metrics import Task
from headrace.declare.trainers import XGBoost
from headrace.kernel.errors import ProjectError
from headrace.training.trainers.libxgboost import Booster
from headrace.training.trainers.port import Budget, Fitted, Outputs, PredictFunction, TrainingData

__all__ = ["MODEL", "XGBoostTrainer"]

MODEL = "model.ubj"
_OBJECTIVES: Mapping[Task, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}


class XGBoostTrainer:
    """The port `TrainerPort` on XGBoost's native interface."""

    name = "xgboost"
    declaration = XGBoost

    def prepare(self, data: TrainingData) -> _Matrices:
        """The data with its quantile matrices, which are made when a fit first needs them."""
        return _Matrices(data)

    def fit(
        self,
        data: _Matrices,
        declared: XGBoost,
        parameters: Mapping[str, Any],
        *,
        seed: int,
        budget: Budget,
    ) -> Fitted:
        """Fits a booster on the train part and cuts it after the round that was best on the validation part.

        Its `chosen` is `num_boost_round`; its importance the share of the total gain of a feature's splits.

        Raises:
            ProjectError: XGBoost does not use one of the parameters: it is misspelt, or not of this booster.
        """
        xgboost = _import_xgboost()
        given = {**declared.parameters, **parameters, "seed": seed}
        defaults = {"objective": _OBJECTIVES[data.task], "tree_method": "hist", **data.class_count}
        train, validation = data.of_bins(given.get("max_bin"), budget.threads)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            booster = xgboost.train(
                {**defaults, **given, "nthread": budget.threads},
                train,
                declared.num_boost_round,
                evals=[(validation, "validation")],
                early_stopping_rounds=declared.early_stopping_rounds,
                verbose_eval=False,
            )
        _check_used(given, [str(warning.message) for warning in caught])
        rounds = booster.best_iteration + 1
        best = booster[:rounds]
        outputs = best.predict(validation).astype(np.float64)
        files = {MODEL: bytes(best.save_raw("ubj"))}
        return Fitted(files, given, {"num_boost_round": rounds}, outputs, _shares_of_gain(best))

    def load(self, folder: Path) -> PredictFunction:
        """The booster's predictions, with one thread: the fastest for few rows."""
        booster = Booster(folder / MODEL)

        def predict(matrix: npt.NDArray[np.float32]) -> Outputs:
            return booster.predict(matrix).astype(np.float64)

        return predict


class _Matrices:
    """Train and validation part, and the quantile matrices of the last `max_bin`, which fits share."""

    def __init__(self, data: TrainingData) -> None:
        self.task = data.task
        self.class_count = {"num_class": len(data.classes)} if data.classes else {}
        self._data = data
        self._made: dict[tuple[int | None, int], tuple[Any, Any]] = {}

    def of_bins(self, max_bin: int | None, threads: int) -> tuple[Any, Any]:
        """Train and validation part, the second cut into bins as the first is; None: XGBoost's own default."""
        if (max_bin, threads) not in self._made:
            xgboost = _import_xgboost()
            options = {"feature_names": list(self._data.features), "nthread": threads, "max_bin": max_bin}
            train = xgboost.QuantileDMatrix(*self._data.train, **options)
            validation = xgboost.QuantileDMatrix(*self._data.validation, ref=train, **options)
            self._made = {(max_bin, threads): (train, validation)}
        return self._made[max_bin, threads]


def _shares_of_gain(booster: Any) -> dict[str, float]:
    gains = {name: float(gain) for name, gain in booster.get_score(importance_type="total_gain").items()}
    total = sum(gains.values()) or 1.0
    return {name: gain / total for name, gain in sorted(gains.items(), key=lambda item: -item[1])}


def _check_used(parameters: Mapping[str, Any], messages: Sequence[str]) -> None:
    """XGBoost only warns of a parameter that it does not know: a search over it would try one model again
    and again."""
    unused = {name for text in messages if "are not used" in text for name in re.findall(r'"(\w+)"', text)}
    mistaken = sorted(unused & set(parameters))
    if mistaken:
        raise ProjectError(
            f"XGBoost does not use the parameter {', '.join(map(repr, mistaken))}",
            remedy="See how XGBoost spells it, and whether this booster has it; else leave it out.",
        )


def _import_xgboost() -> Any:
    """Imports XGBoost without scikit-learn: 1 s instead of 4, and 100 MB less.

    XGBoost's scikit-learn classes are then missing in the process, unless scikit-learn was imported before.
    """
    if "xgboost" not in sys.modules and "sklearn" not in sys.modules:
        # XGBoost's threads would otherwise spin while they wait, and starve other processes.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # an import of it now fails at once
        try:
            import xgboost
        finally:
            del sys.modules["sklearn"]
    import xgboost

    return xgboost
