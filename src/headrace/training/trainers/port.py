"""The port that a trainer implements: from matrices to a fitted model, to its files, and back to predictions.

A trainer's module imports its library inside functions: a process that only predicts loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.features.values.matrix import Encoding

__all__ = [
    "Budget",
    "Examples",
    "Fitted",
    "Label",
    "ModelMeta",
    "Outputs",
    "PredictFunction",
    "TrainerPort",
    "TrainingData",
]

Label = str | int
Outputs = npt.NDArray[np.float64]
"""Shape (n,): the probability that the target is 1 (binary), or the value (regression); shape (n, classes): the
probabilities (multiclass)."""
PredictFunction = Callable[[npt.NDArray[np.float32]], Outputs]


class Examples(NamedTuple):
    """Labelled rows as numbers.

    Attributes:
        matrix: float32 (n, features), NaN where a feature is missing.
        target: shape (n,): 0 or 1 or the index of the class as float32, a number as float64.
    """

    matrix: npt.NDArray[np.float32]
    target: npt.NDArray[Any]


class TrainingData(Struct, frozen=True):
    """What a trainer learns from.

    Attributes:
        task: the task of the target.
        encoding: the matrix's columns, and the text that the codes in it stand for.
        classes: the labels of a multiclass target, by index; else empty.
        train: the rows that the model is fitted on.
        validation: the rows by which the trainer stops early.
    """

    task: Task
    encoding: Encoding
    classes: tuple[Label, ...]
    train: Examples
    validation: Examples

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the matrix's columns."""
        return self.encoding.features


class Budget(Struct, frozen=True):
    """The resources that a fit may use.

    Attributes:
        threads: the number of threads.
        gpu: whether it may use the GPU that its process sees.
    """

    threads: int = 1
    gpu: bool = False


class Fitted(Struct, frozen=True):
    """A fitted model.

    Attributes:
        files: name → content of the files of the model's folder.
        parameters: all parameters that the library received.
        chosen: the parameters that the fit chose itself, such as the number of rounds.
        validation: the model's outputs on the validation part.
        importance: feature → its share of the total importance, largest first; empty if the model has no
            measure of it.
    """

    files: Mapping[str, bytes]
    parameters: Mapping[str, Any]
    chosen: Mapping[str, float]
    validation: Outputs
    importance: Mapping[str, float]


class ModelMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What `meta.json` holds.

    Attributes:
        trainer: the name of the trainer that reads the other files.
        task: the task of the model.
        classes: the labels of a multiclass model, in the order of its outputs; else empty.
        encoding: how a row becomes numbers.
        parameters: the parameters of the fit.
    """

    trainer: str
    task: Task = "binary"
    classes: tuple[Label, ...] = ()
    encoding: Encoding
    parameters: dict[str, Any] = {}


class TrainerPort(Protocol):
    """One way to fit models. It is stateless, so that any worker of Ray can use its own instance.

    Attributes:
        name: its name in `meta.json`.
        declaration: the class that declares it (declare.trainers).
        is_batch_invariant: whether a model answers a row with the same bits alone and among other rows. A
            library that multiplies matrices adds up in another order for another number of rows.
        prepared_for: if `load` takes long in Python, the packages on whose versions a pickle of the loaded
            model depends: serving keeps one (serving.prepared). Empty: `load` is quick.
    """

    name: str
    declaration: type[Any]
    is_batch_invariant: bool
    prepared_for: tuple[str, ...]

    def prepare(self, data: TrainingData) -> Any:
        """Converts the data to the form that `fit` takes. A search prepares once and fits many times."""

    def fit(
        self, data: Any, declared: Any, parameters: Mapping[str, Any], *, seed: int, budget: Budget
    ) -> Fitted:
        """Fits one model. The same arguments on the same machine give the same model.

        Args:
            data: from `prepare`.
            declared: the declaration of the trainer.
            parameters: those that a search chose; they override the declared ones.
            seed: the seed of every random choice.
            budget: the resources that the fit may use.

        Raises:
            ProjectError: the library does not accept a parameter.
        """

    def preload(self) -> None:
        """Loads the libraries that `load` needs, so that a later `load` is quick."""

    def load(self, folder: Path, meta: ModelMeta) -> PredictFunction:
        """Loads the model in the folder, and returns its predict function. Threads may share it.

        Args:
            folder: where the model's files are.
            meta: the content of its `meta.json`.

        Raises:
            HeadraceError: the folder does not hold a model of this trainer.
        """
