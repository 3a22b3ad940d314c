"""Trainers: the algorithm that fits a model, and its parameters.

This module only declares; `training.trainers` fits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["Sklearn", "Trainer", "XGBoost", "check_names"]


@attrs.frozen
class Trainer:
    """The base class of every trainer's declaration.

    Attributes:
        parameters: the library's parameters; a search overrides them by name.
    """

    parameters: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)

    def check_parameters(self, names: Iterable[str], place: Place | None = None) -> None:
        """Raises ProjectError, with the place, for a name that the library is known not to have."""


@attrs.frozen(init=False)
class XGBoost(Trainer):
    """Gradient-boosted trees by XGBoost.

    Attributes:
        num_boost_round: the most trees; the fit ends earlier if the validation part stops improving.
        early_stopping_rounds: the number of rounds without improvement that ends the fit.
        parameters: XGBoost's parameters, such as `objective`.
    """

    num_boost_round: int = 300
    early_stopping_rounds: int = 20

    def __init__(self, num_boost_round: int = 300, early_stopping_rounds: int = 20, **parameters: Any) -> None:
        # attrs generates __attrs_init__; XGBoost's parameters are keywords here.
        self.__attrs_init__(num_boost_round, early_stopping_rounds, parameters=parameters)


@attrs.frozen(init=False)
class Sklearn(Trainer):
    """An estimator of scikit-learn.

    A single estimator gets numbers imputed (median) and scaled, and text one-hot encoded, all learnt from the
    train part. A `Pipeline` is used as it is: its input is a pandas frame with a column for each feature
    (`view__feature`).

    Attributes:
        estimator: the estimator or Pipeline, or a class or function that returns one when it is called
            without arguments.
        parameters: override the estimator's own by the names of its `get_params()`: `C`, in a Pipeline
            `step__C`.

    Raises:
        ProjectError: `estimator` is neither, or it lacks a parameter.
    """

    estimator: Any

    def __init__(self, estimator: Any, **parameters: Any) -> None:
        place = Place.of_caller()
        if not (callable(estimator) or hasattr(estimator, "get_params")):
            raise ProjectError(
                f"{estimator!r} is not an estimator",
                where=str(place),
                remedy="Write Sklearn(LogisticRegression()), a Pipeline, or a function that returns one.",
            )
        self.__attrs_init__(estimator, parameters=parameters)
        self.check_parameters(parameters, place)

    def make_estimator(self) -> Any:
        """The estimator, with its own parameters."""
        is_factory = isinstance(self.estimator, type) or not hasattr(self.estimator, "get_params")
        return self.estimator() if is_factory else self.estimator

    def check_parameters(self, names: Iterable[str], place: Place | None = None) -> None:
        """Raises ProjectError for a name that is not a parameter of the estimator. A function that makes the
        estimator is not called for that: its parameters are checked when the model is fitted."""
        if isinstance(self.estimator, type) or hasattr(self.estimator, "get_params"):
            check_names(self.make_estimator(), names, place)


def check_names(estimator: Any, names: Iterable[str], place: Place | None = None) -> None:
    """Raises ProjectError, with the place, for a name that is not among the estimator's `get_params()`."""
    valid = sorted(estimator.get_params())
    for name in names:
        if name not in valid:
            similar = difflib.get_close_matches(name, valid, n=3)
            raise ProjectError(
                f"{type(estimator).__name__} does not have the parameter {name!r}",
                where=None if place is None else str(place),
                remedy=f"Did you mean {' or '.join(similar)}?" if similar else f"It has: {', '.join(valid)}.",
            )
