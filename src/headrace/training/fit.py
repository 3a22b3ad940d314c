"""The fit: a training set becomes matrices, a search finds parameters, Ray Train fits the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.model import Model, XGBoost
from headrace.features.plan import FeaturePlan
from headrace.features.values.matrix import Encoding, Matrix
from headrace.kernel.run import run
from headrace.training.split import Parts
from headrace.training.trainers import xgboost

__all__ = ["Fit", "Prepared", "Progress", "final_fit", "matrix_of", "prepare"]

Part = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Progress = Callable[[str, int, int], None]
"""Told what goes on, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Prepared:
    """The parts as matrices.

    Attributes:
        encoding: how rows become numbers, learnt from the train part.
        train, validation, test: matrix float32 (n, features) and target float32 (n,).
    """

    encoding: Encoding
    train: Part
    validation: Part
    test: Part

    @property
    def base_rate(self) -> float:
        """The share of the train part whose target is 1."""
        return float(self.train[1].mean())


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Attributes:
        booster: as XGBoost writes it, `.ubj`.
        rounds: how many trees.
        parameters: all it was fitted with.
        validation: its answers on the validation part, float64 (n,).
        importance: feature → share of the total gain of its splits, largest first.
    """

    booster: bytes
    rounds: int
    parameters: dict[str, Any]
    validation: npt.NDArray[np.float64]
    importance: dict[str, float]

    def save(self, folder: Path, prepared: Prepared) -> xgboost.Predictor:
        """Writes the model into the folder and loads it as serving will."""
        meta = xgboost.Meta(
            encoding=prepared.encoding,
            parameters=self.parameters,
            rounds=self.rounds,
            base_rate=prepared.base_rate,
        )
        xgboost.save(folder, self.booster, meta)
        return xgboost.load(folder)


def prepare(parts: Parts, target: str, plan: FeaturePlan) -> Prepared:
    """The parts as matrices; what there is to learn of an encoding comes from the train part alone."""
    encoding = Encoding.learn(parts.train, plan)
    matrix = Matrix(plan, encoding)

    def part(rows: pl.DataFrame) -> Part:
        return matrix_of(rows, matrix), rows[target].cast(pl.Float32).to_numpy()

    return Prepared(encoding, part(parts.train), part(parts.validation), part(parts.test))


def matrix_of(rows: pl.DataFrame, matrix: Matrix) -> npt.NDArray[np.float32]:
    """The rows as a model sees them, float32 (rows, features); some of them at a time are held as float64."""
    seen = np.empty((len(rows), len(matrix.columns)), dtype=np.float32)
    first = 0
    for part in matrix.slices(rows):
        seen[first : first + len(part.matrix)] = part.matrix
        first += len(part.matrix)
    return seen


def final_fit(
    prepared: Prepared,
    model: Model,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    seed: int = 0,
    apart: bool = False,
) -> Fit:
    """Fits with these parameters by Ray Train, with all the cluster's CPUs.

    The process must be connected to Ray (`cluster.connect`).

    Args:
        prepared: the matrices; the validation part says when to stop.
        model: its trainer gives the rounds and what `parameters` do not.
        parameters: those that the search found.
        folder: where Ray Train keeps what it must; it is made, and may be removed afterwards.
        seed: of XGBoost's sampling.
        apart: on a worker of the cluster, as on a cluster of several machines it should be. Else in
            this process: Ray Train's controller, worker and watchers are five more processes, and
            cost 15 s before the first round.
    """
    merged = {**model.trainer.parameters, **parameters, "seed": seed}
    with run(f"fit {model.name}") as this:
        fitted = _by_ray_train(prepared, model.trainer, merged, folder, apart)
        this.fact(params={**merged, "rounds": fitted.rounds})
    return fitted


def _by_ray_train(
    prepared: Prepared, trainer: XGBoost, parameters: dict[str, Any], folder: Path, apart: bool
) -> Fit:
    # The controller looks at its workers this often, and so learns that they are done.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    import ray
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    scaling = (
        ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": cores})
        if apart
        else ray.train.ScalingConfig(num_workers=0)  # its local mode
    )
    told = {
        "data": [ray.put((prepared.train, prepared.validation))],  # in a list: a bare one would be fetched
        "parameters": parameters,
        "rounds": trainer.num_boost_round,
        "early_stopping": trainer.early_stopping_rounds,
        "threads": cores,
        "features": prepared.encoding.features,
    }
    result = DataParallelTrainer(
        _train_loop,
        train_loop_config=told,
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name="fit", storage_path=str(folder)),
    ).fit()
    booster, rounds, validation, importance = result.return_value
    return Fit(booster, rounds, parameters, validation, importance)


def _train_loop(told: dict[str, Any]) -> tuple[bytes, int, npt.NDArray[np.float64], dict[str, float]]:
    """What the worker does."""
    import ray

    xgboost.import_alone()
    ((train, validation),) = ray.get(told["data"])
    return xgboost.fit(
        train,
        validation,
        told["parameters"],
        rounds=told["rounds"],
        early_stopping=told["early_stopping"],
        threads=told["threads"],
        features=told["features"],
    )
