"""XGBoost: fits a booster, keeps it as `model.ubj`, and loads it without XGBoost's Python package."""

from __future__ import annotations

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
from headrace.training.trainers.libxgboost import Booster, load_library
from headrace.training.trainers.port import Budget, Fitted, ModelMeta, Outputs, PredictFunction, TrainingData

__all__ = ["MODEL", "XGBoostTrainer"]

MODEL = "model.ubj"
_OBJECTIVES: Mapping[Task, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}


class XGBoostTrainer:
    """Implements the port `TrainerPort` by XGBoost's native interface."""

    name = "xgboost"
    declaration = XGBoost
    is_batch_invariant = True  # each row goes down each tree by itself
    prepared_for: tuple[str, ...] = ()

    def preload(self) -> None:
        """Loads the C library."""
        load_library()

    def prepare(self, data: TrainingData) -> _Matrices:
        """The data, with quantile matrices that are made when a fit first needs them."""
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
        """Fits a booster on the train part and drops the rounds after the best one on the validation part.

        Text is a category, which a tree splits into two groups of values.

        Its `chosen` is `num_boost_round`. The importance of a feature is the share of its splits in the total
        gain.

        Raises:
            ProjectError: XGBoost refuses a parameter's value, or does not use a parameter: it is misspelt, or
                this booster does not have it.
        """
        xgboost = _import_xgboost()
        given = {**declared.parameters, **parameters, "seed": seed}
        defaults = {"objective": _OBJECTIVES[data.task], "tree_method": "hist", **data.class_count}
        train, validation = data.quantile_matrices(given.get("max_bin"), budget.threads)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                booster = xgboost.train(
                    {**defaults, **given, "nthread": budget.threads},
                    train,
                    declared.num_boost_round,
                    evals=[(validation, "validation")],
                    early_stopping_rounds=declared.early_stopping_rounds,
                    verbose_eval=False,
                )
            except xgboost.core.XGBoostError as error:
                raise ProjectError(f"XGBoost cannot be fitted: {_describe(error)}") from error
        _check_used(given, [str(warning.message) for warning in caught])
        rounds = booster.best_iteration + 1
        best = booster[:rounds]
        outputs = best.predict(validation).astype(np.float64)
        files = {MODEL: bytes(best.save_raw("ubj"))}
        return Fitted(files, given, {"num_boost_round": rounds}, outputs, _shares_of_gain(best))

    def load(self, folder: Path, meta: ModelMeta) -> PredictFunction:  # noqa: ARG002  the port's signature
        """The booster's predictions, with one thread: the fastest for few rows."""
        booster = Booster(folder / MODEL)

        def predict(matrix: npt.NDArray[np.float32]) -> Outputs:
            return booster.predict(matrix).astype(np.float64)

        return predict


class _Matrices:
    """The train and the validation part, and their quantile matrices of the last `max_bin`, shared by fits."""

    def __init__(self, data: TrainingData) -> None:
        self.task = data.task
        self.class_count = {"num_class": len(data.classes)} if data.classes else {}
        self._data = data
        self._cached: dict[tuple[int | None, int], tuple[Any, Any]] = {}

    def quantile_matrices(self, max_bin: int | None, threads: int) -> tuple[Any, Any]:
        """The train and the validation part, both with the bins of the train part; None: XGBoost's default."""
        key = (max_bin, threads)
        if key not in self._cached:
            xgboost = _import_xgboost()
            options = {"feature_names": list(self._data.features), "nthread": threads, "max_bin": max_bin}
            categories = self._data.encoding.categories
            if categories:
                types = ["c" if name in categories else "q" for name in self._data.features]
                options |= {"feature_types": types, "enable_categorical": True}
            train = xgboost.QuantileDMatrix(*self._data.train, **options)
            validation = xgboost.QuantileDMatrix(*self._data.validation, ref=train, **options)
            self._cached = {key: (train, validation)}
        return self._cached[key]


def _shares_of_gain(booster: Any) -> dict[str, float]:
    gains = {name: float(gain) for name, gain in booster.get_score(importance_type="total_gain").items()}
    total = sum(gains.values()) or 1.0
    return {name: gain / total for name, gain in sorted(gains.items(), key=lambda item: -item[1])}


def _check_used(parameters: Mapping[str, Any], messages: Sequence[str]) -> None:
    """Refuses parameters that XGBoost does not know. It only warns of them, and a search over such a parameter
    would fit the same model again and again."""
    unused = {name for text in messages if "are not used" in text for name in re.findall(r'"(\w+)"', text)}
    unknown = sorted(unused & set(parameters))
    if unknown:
        raise ProjectError(
            f"XGBoost does not use the parameter {', '.join(map(repr, unknown))}",
            remedy="Check its spelling and whether this booster has it, or remove it.",
        )


def _describe(error: Exception) -> str:
    """The first line of XGBoost's error, without its time and its place in the source."""
    return re.sub(r"^\[[\d:]+\] \S+:\d+: ", "", str(error).strip()).splitlines()[0]


def _import_xgboost() -> Any:
    """Imports XGBoost without scikit-learn: 1 s instead of 4, and 100 MB less.

    This process then lacks XGBoost's scikit-learn classes, unless scikit-learn was imported before.
    """
    if "xgboost" not in sys.modules and "sklearn" not in sys.modules:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # makes its import fail at once
        try:
            import xgboost
        finally:
            del sys.modules["sklearn"]
    import xgboost

    return xgboost
