"""The trainers, a module each. A new trainer is a module, a declaration, and a line in `TRAINERS`."""

from __future__ import annotations

import os

from headrace.declare.trainers import Trainer
from headrace.kernel.errors import HeadraceError
from headrace.training.trainers.port import TrainerPort
from headrace.training.trainers.sklearn import SklearnTrainer
from headrace.training.trainers.torch import TorchTrainer
from headrace.training.trainers.xgboost import XGBoostTrainer

__all__ = ["TRAINERS", "preload_libraries", "trainer_by_name", "trainer_for"]

# The threads of OpenMP would otherwise spin while they wait, and starve each other and other processes. The
# first library that has OpenMP reads this when it is loaded, and the others may share its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TRAINERS: tuple[TrainerPort, ...] = (XGBoostTrainer(), SklearnTrainer(), TorchTrainer())


def trainer_for(declared: Trainer) -> TrainerPort:
    """The trainer that implements a declaration."""
    return next(trainer for trainer in TRAINERS if trainer.declaration is type(declared))


def trainer_by_name(name: str) -> TrainerPort:
    """The trainer that a model's folder names.

    Raises:
        HeadraceError: this version of Headrace does not have the trainer.
    """
    for trainer in TRAINERS:
        if trainer.name == name:
            return trainer
    names = ", ".join(trainer.name for trainer in TRAINERS)
    raise HeadraceError(
        f"{name!r} is not a trainer of this version of Headrace",
        remedy=f"Use the version of Headrace that trained the model. This one has: {names}.",
    )


def preload_libraries() -> None:
    """Loads what the trainers load their models with.

    An import holds the lock of the interpreter, so a request that is answered meanwhile waits for it.
    """
    for trainer in TRAINERS:
        trainer.preload()
