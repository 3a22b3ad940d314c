"""XGBoost: how a model is fitted, kept in a folder, and loaded for prediction.

A fitted model is a folder: `model.ubj` (the booster up to its best round) and `meta.json` (its
columns and how text was encoded).
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.features.values.matrix import Encoding
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.training.trainers.libxgboost import Booster

__all__ = ["MODEL", "Meta", "Predictor", "fit", "import_alone", "load", "matrices_of", "save"]

MODEL = "model.ubj"
META = "meta.json"


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What `meta.json` holds: the encoding, and how the booster was made."""

    trainer: str = "xgboost"
    encoding: Encoding
    parameters: dict[str, Any]
    rounds: int
    base_rate: float


class Predictor:
    """A loaded model: numbers in, probabilities out. It needs neither XGBoost's Python package nor Ray.

    Attributes:
        meta: what the model says of itself.
    """

    def __init__(self, booster: Booster, meta: Meta) -> None:
        self._booster = booster
        self.meta = meta

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of the matrix, in order."""
        return self.meta.encoding.features

    def predict(self, matrix: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The model's answer for each row.

        Args:
            matrix: float32 (n, features), as `features.matrix.Matrix` makes it.

        Returns:
            float64, shape (n,): the probability that the target is 1.

        Raises:
            HeadraceError: the matrix has another number of columns.
        """
        if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
            raise HeadraceError(
                f"the model takes {len(self.features)} features; the matrix has the shape {matrix.shape}"
            )
        return self._booster.predict(np.ascontiguousarray(matrix, np.float32)).astype(np.float64)


def load(folder: Path) -> Predictor:
    """The model in this folder, ready to predict with one thread.

    Raises:
        HeadraceError: the folder holds no model of this trainer.
    """
    try:
        meta = msgspec.json.decode((folder / META).read_bytes(), type=Meta)
    except (OSError, msgspec.DecodeError) as error:
        raise HeadraceError(f"there is no model: {error}", where=str(folder)) from error
    return Predictor(Booster(folder / MODEL), meta)


def save(folder: Path, booster: bytes, meta: Meta) -> None:
    """Writes the model into the folder, which it makes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(booster)
    (folder / META).write_bytes(msgspec.json.format(msgspec.json.encode(meta, order="sorted"), indent=1))


def fit(
    train: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    validation: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    parameters: Mapping[str, Any],
    *,
    rounds: int,
    early_stopping: int,
    threads: int = 1,
    features: Sequence[str] | None = None,
    matrices: tuple[Any, Any] | None = None,
) -> tuple[bytes, int, npt.NDArray[np.float64], dict[str, float]]:
    """Fits a booster on the train part; the validation part says when to stop.

    Args:
        train, validation: matrix float32 (n, features) with NaN for missing, and target float32 (n,).
        parameters: XGBoost's own.
        rounds: the most rounds.
        early_stopping: so many rounds without improvement on the validation part end the fit.
        threads: how many threads XGBoost uses.
        features: names of the columns, kept in the model.
        matrices: what `matrices_of` made of the parts, with the parameters' `max_bin`; who fits several
            times on them makes it once.

    Returns:
        The booster cut after its best round, as bytes of its `.ubj` form; how many rounds that are;
        its answers on the validation part, float64 (n,); and, by column, the share of the total gain
        of its splits, the largest first.

    Raises:
        ProjectError: XGBoost does not use one of the parameters: it is misspelt, or not of this booster.
    """
    import xgboost

    options = {"objective": "binary:logistic", "tree_method": "hist", **parameters, "nthread": threads}
    max_bin = parameters.get("max_bin")
    data, held = matrices or matrices_of(train, validation, threads=threads, features=features, max_bin=max_bin)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        booster = xgboost.train(
            options,
            data,
            rounds,
            evals=[(held, "validation")],
            early_stopping_rounds=early_stopping,
            verbose_eval=False,
        )
    _check_used(parameters, [str(warning.message) for warning in caught])
    best = booster.best_iteration + 1
    cut = booster[:best]
    answers = cut.predict(held).astype(np.float64)
    gains = {name: float(gain) for name, gain in cut.get_score(importance_type="total_gain").items()}
    total = sum(gains.values()) or 1.0
    importance = {name: gain / total for name, gain in sorted(gains.items(), key=lambda one: -one[1])}
    return bytes(cut.save_raw("ubj")), best, answers, importance


def _check_used(parameters: Mapping[str, Any], told: Sequence[str]) -> None:
    """XGBoost only warns of a parameter that it does not know: a search over it would try one model again
    and again."""
    unused = {name for text in told if "are not used" in text for name in re.findall(r'"(\w+)"', text)}
    mistaken = sorted(unused & set(parameters))
    if mistaken:
        raise ProjectError(
            f"XGBoost does not use the parameter {', '.join(map(repr, mistaken))}",
            remedy="See how XGBoost spells it, and whether this booster has it; else leave it out.",
        )


def matrices_of(
    train: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    validation: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    *,
    threads: int = 1,
    features: Sequence[str] | None = None,
    max_bin: int | None = None,
) -> tuple[Any, Any]:
    """The parts as XGBoost's quantile matrices, the validation part cut as the train part is.

    `max_bin` is XGBoost's parameter of that name, which a fit on them must have too; None: its own default.
    """
    import xgboost

    options = {
        "feature_names": None if features is None else list(features),
        "nthread": threads,
        "max_bin": max_bin,
    }
    data = xgboost.QuantileDMatrix(*train, **options)
    return data, xgboost.QuantileDMatrix(*validation, ref=data, **options)


def import_alone() -> None:
    """Imports XGBoost without scikit-learn: 1 s instead of 4, and 100 MB less.

    For processes of ours that only fit: XGBoost's scikit-learn classes are not to be had there.
    """
    if "xgboost" in sys.modules or "sklearn" in sys.modules:
        return
    # XGBoost's threads would else spin while they wait, and starve what runs beside them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # an import of it now fails at once
    try:
        import xgboost  # noqa: F401
    finally:
        del sys.modules["sklearn"]
