"""The folder of a fitted model: the trainer's files, and `meta.json`, which tells how to load and use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.kernel.errors import HeadraceError
from headrace.training.trainers import trainer_by_name
from headrace.training.trainers.port import ModelMeta, Outputs, PredictFunction

__all__ = ["META", "Predictor", "load_model", "read_meta", "save_model"]

META = "meta.json"


class Predictor:
    """A loaded model. Threads may share it.

    Attributes:
        meta: the content of `meta.json`.
        is_batch_invariant: whether it answers a row with the same bits alone and among other rows.
    """

    def __init__(self, meta: ModelMeta, predict: PredictFunction, *, is_batch_invariant: bool = False) -> None:
        self.meta = meta
        self.is_batch_invariant = is_batch_invariant
        self._predict = predict

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of the matrix, in order."""
        return self.meta.encoding.features

    def predict(self, matrix: npt.NDArray[Any]) -> Outputs:
        """The model's output for each row.

        Args:
            matrix: float32 (n, features), as `features.values.matrix.Matrix` makes it.

        Returns:
            float64: shape (n,), the probability that the target is 1 or the value; for a multiclass model
            (n, classes), the probability of each class.

        Raises:
            HeadraceError: the matrix has a different number of columns than the model.
        """
        if matrix.ndim != 2 or matrix.shape[1] != len(self.features):
            raise HeadraceError(
                f"the model takes {len(self.features)} features; the matrix has the shape {matrix.shape}"
            )
        return self._predict(np.ascontiguousarray(matrix, np.float32))


def save_model(folder: Path, files: Mapping[str, bytes], meta: ModelMeta) -> None:
    """Writes the trainer's files and `meta.json` into the folder, and makes it if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / META).write_bytes(msgspec.json.format(msgspec.json.encode(meta, order="sorted"), indent=1))


def read_meta(folder: Path) -> ModelMeta:
    """The content of the model's `meta.json`. Raises HeadraceError if the folder does not hold a model."""
    try:
        return msgspec.json.decode((folder / META).read_bytes(), type=ModelMeta)
    except (OSError, msgspec.DecodeError) as error:
        raise HeadraceError(f"the model cannot be read: {error}", where=str(folder)) from error


def load_model(folder: Path) -> Predictor:
    """Loads the model in this folder.

    Raises:
        HeadraceError: the folder does not hold a model.
    """
    meta = read_meta(folder)
    trainer = trainer_by_name(meta.trainer)
    return Predictor(meta, trainer.load(folder, meta), is_batch_invariant=trainer.is_batch_invariant)
