"""The port that a trainer implements: from matrices to a fitted model, to its files, and back to predictions.

A trainer's module imports its library inside functions: a process that only predicts loads what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from headrace.declare.metrics import Task

__all__ = ["Budget", "Examples", "Fitted", "Label", "Outputs", "PredictFunction", "TrainerPort", "TrainingData"]

Label = str | int
Outputs = npt.NDArray[np.float64]
"""Shape (n,): the probability that the target is 1 (binary), or the value (regression); shape (n, classes): the
probabilities (multiclass)."""
PredictFunction = Callable[[npt.NDArray[np.float32]], Outputs]


class Examples(NamedTuple):
    """Labelled rows as numbers.

    Attributes:
        matrix: float32 (n, features), NaN where a feature is missing.
        target: float32 (n,): 0 or 1, a number, or the index of the class.
    """

    matrix: npt.NDArray[np.float32]
    target: npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """What a trainer learns from.

    Attributes:
        task: the task of the target.
        features: the names of the matrix's columns.
        classes: the labels of a multiclass target, by index; else empty.
        train: the rows that the model is fitted on.
        validation: the rows by which the trainer stops early.
    """

    task: Task
    features: tuple[str, ...]
    classes: tuple[Label, ...]
    train: Examples
    validation: Examples


@dataclass(frozen=True)
class Budget:
    """The resources that a fit may use.

    Attributes:
        threads: the number of threads.
    """

    threads: int = 1


@dataclass(frozen=True)
class Fitted:
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


class TrainerPort(Protocol):
    """One way to fit models. It is stateless, so that any worker of Ray can use its own instance.

    Attributes:
        name: its name in `meta.json`.
        declaration: the class that declares it (declare.trainers).
    """

    name: str
    declaration: type[Any]

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

    def load(self, folder: Path) -> PredictFunction:
        """Loads the model in the folder, and returns its predict function. Threads may share it.

        Raises:
            HeadraceError: the folder does not hold a model of this trainer.
        """
