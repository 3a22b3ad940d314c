"""Trainers: the algorithm that fits a model, and its parameters.

This module only declares; `training.trainers` fits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import attrs

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["MLP", "Sklearn", "Torch", "Trainer", "XGBoost", "check_names"]


@attrs.frozen
class Trainer:
    """The base class of every trainer's declaration.

    Attributes:
        parameters: the library's parameters; a search overrides them by name.
    """

    parameters: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)

    @property
    def processes(self) -> int:
        """How many processes fit the model together."""
        return 1

    @property
    def uses_gpu(self) -> bool:
        """Whether the fit uses a GPU where there is one."""
        return False

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
            estimator = self.make_estimator()
            check_names(names, type(estimator).__name__, estimator.get_params(), place)


def _to_sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sizes)


@attrs.frozen
class MLP:
    """A multilayer perceptron: hidden layers with batch normalization, ReLU and dropout, and a linear output.

    Attributes:
        hidden: the sizes of the hidden layers.
        dropout: the share of a hidden layer's outputs that a training step leaves out, 0 to less than 1.
        batch_norm: whether each hidden layer is normalized over the batch.

    Raises:
        ProjectError: a size is below 1, or `dropout` is out of its range.
    """

    hidden: tuple[int, ...] = attrs.field(default=(256, 128, 64), converter=_to_sizes)
    dropout: float = 0.2
    batch_norm: bool = True

    def __attrs_post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ProjectError(f"hidden={self.hidden} must be sizes of 1 or more", where=str(Place.of_caller()))
        if not 0 <= self.dropout < 1:
            raise ProjectError(
                f"dropout={self.dropout!r} must be at least 0 and less than 1", where=str(Place.of_caller())
            )


Loss = Literal["squared", "absolute", "huber"]


@attrs.frozen
class Torch(Trainer):
    """A neural network by PyTorch (extra `torch`), fitted by AdamW on a cosine schedule.

    Numbers are imputed (median) and scaled, and text is embedded, all learnt from the train part; so is the
    scale of a regression's target. The model is that of the epoch with the least loss on the validation part.
    A search overrides any field but `workers` by its name, and the module's as `module__dropout`.

    Attributes:
        module: the network.
        epochs: how many times the train part is seen.
        batch_size: the rows of a step, of all workers together.
        learning_rate: of the first step; it falls to 0 along a cosine.
        weight_decay: AdamW's.
        clip_norm: the greatest norm of a step's gradient.
        patience: ends the fit after so many epochs without a lower loss; None: never.
        loss: of a regression; that of classes is the cross-entropy.
        workers: how many processes share each step: PyTorch's DDP, started by Ray Train, on NCCL where each
            has a GPU of its own, else on gloo. A trial of a search has one, on a CPU.

    Raises:
        ProjectError: a value is out of its range.
    """

    module: MLP = attrs.field(factory=MLP)
    epochs: int = attrs.field(default=20, kw_only=True)
    batch_size: int = attrs.field(default=1024, kw_only=True)
    learning_rate: float = attrs.field(default=1e-3, kw_only=True)
    weight_decay: float = attrs.field(default=1e-2, kw_only=True)
    clip_norm: float = attrs.field(default=1.0, kw_only=True)
    patience: int | None = attrs.field(default=None, kw_only=True)
    loss: Loss = attrs.field(default="squared", kw_only=True)
    workers: int = attrs.field(default=1, kw_only=True)

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        for name in ("epochs", "batch_size", "learning_rate", "clip_norm", "workers"):
            if not getattr(self, name) > 0:
                raise ProjectError(f"{name}={getattr(self, name)!r} must be positive", where=place)
        if self.weight_decay < 0:
            raise ProjectError(f"weight_decay={self.weight_decay!r} must not be negative", where=place)
        if self.patience is not None and self.patience < 1:
            raise ProjectError(f"patience={self.patience!r} must be 1 or more, or None", where=place)
        if self.loss not in get_args(Loss):
            raise ProjectError(
                f"loss={self.loss!r} is not a valid loss",
                where=place,
                remedy=f"The losses are {', '.join(get_args(Loss))}.",
            )

    @property
    def processes(self) -> int:
        """The workers."""
        return self.workers

    @property
    def uses_gpu(self) -> bool:
        """True."""
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters by the names that a search uses."""
        own = attrs.asdict(self, recurse=False)
        module = attrs.asdict(own.pop("module"))
        del own["parameters"], own["workers"]
        return own | {f"module__{name}": value for name, value in module.items()}

    def with_settings(self, settings: Mapping[str, Any]) -> Torch:
        """The declaration with some parameters replaced, by the names that a search uses.

        Raises:
            ProjectError: a name or a value is not valid.
        """
        check_names(settings, "Torch", self.settings)
        module = {name[8:]: value for name, value in settings.items() if name.startswith("module__")}
        own = {name: value for name, value in settings.items() if not name.startswith("module__")}
        return attrs.evolve(self, module=attrs.evolve(self.module, **module), **own)

    def check_parameters(self, names: Iterable[str], place: Place | None = None) -> None:
        """Raises ProjectError for a name that is not a parameter."""
        check_names(names, "Torch", self.settings, place)


def check_names(names: Iterable[str], owner: str, valid: Iterable[str], place: Place | None = None) -> None:
    """Raises ProjectError, with the place, for a name that the owner does not have."""
    valid = sorted(valid)
    for name in names:
        if name not in valid:
            similar = difflib.get_close_matches(name, valid, n=3)
            raise ProjectError(
                f"{owner} does not have the parameter {name!r}",
                where=None if place is None else str(place),
                remedy=f"Did you mean {' or '.join(similar)}?" if similar else f"It has: {', '.join(valid)}.",
            )
