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
"""Shape (n,): probability that the target is 1 (binary), or value (regression); (n, classes): probabilities."""
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
        task: what the target is.
        features: the names of the matrix's columns.
        classes: the labels of a multiclass target, by index; else empty.
        train: what the model is fitted on.
        validation: what tells when to stop.
    """

    task: Task
    features: tuple[str, ...]
    classes: tuple[Label, ...]
    train: Examples
    validation: Examples


@dataclass(frozen=True)
class Budget:
    """What a fit may use.

    Attributes:
        threads: how many threads.
    """

    threads: int = 1


@dataclass(frozen=True)
class Fitted:
    """A fitted model.

    Attributes:
        files: name → content of the files of the model's folder.
        parameters: all that the library was given.
        chosen: what the fit itself settled, by the parameter's name, such as the number of rounds.
        validation: the model's outputs on the validation part.
        importance: feature → its share of what the model owes to its features, largest first; empty where the
            model cannot tell.
    """

    files: Mapping[str, bytes]
    parameters: Mapping[str, Any]
    chosen: Mapping[str, float]
    validation: Outputs
    importance: Mapping[str, float]


class TrainerPort(Protocol):
    """One way to fit models. It has no state of its own: Ray's workers use it by name.

    Attributes:
        name: what `meta.json` calls it.
        declaration: the class that declares it (declare.trainers).
    """

    name: str
    declaration: type[Any]

    def prepare(self, data: TrainingData) -> Any:
        """The data in the form that `fit` takes. A search prepares once and fits many times."""

    def fit(
        self, data: Any, declared: Any, parameters: Mapping[str, Any], *, seed: int, budget: Budget
    ) -> Fitted:
        """Fits one model. The same arguments on the same machine give the same model.

        Args:
            data: from `prepare`.
            declared: the declaration; `parameters` override its own.
            parameters: those that a search chose.
            seed: of every random choice.
            budget: what the fit may use.

        Raises:
            ProjectError: the library does not take a parameter.
        """

    def load(self, folder: Path) -> PredictFunction:
        """The predict function of the model in the folder. Threads may share it.

        Raises:
            HeadraceError: the folder does not hold a model of this trainer.
        """
