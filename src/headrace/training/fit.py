"""The fit of a fold: Ray Train fits the model with the parameters that the search found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.declare.model import Model
from headrace.declare.trainers import Trainer
from headrace.kernel.run import run
from headrace.training.matrices import Matrices
from headrace.training.trainers import trainer_for
from headrace.training.trainers.folder import Predictor, load_model, save_model
from headrace.training.trainers.port import Budget, Fitted, ModelMeta, TrainingData

__all__ = ["Progress", "fit_fold", "save"]

Progress = Callable[[str, int, int], None]
"""Receives progress: the name of what is counted, how many are done, and how many there are in all."""


def fit_fold(
    data: TrainingData,
    model: Model,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    seed: int = 0,
    on_worker: bool = False,
) -> Fitted:
    """Fits with these parameters on a fold by Ray Train, with all the cluster's CPUs.

    The process must be connected to Ray (`cluster.connect`).

    Args:
        data: the fold; the trainer stops early by its validation part.
        model: its trainer supplies the parameters that `parameters` leaves out.
        parameters: those that the search found.
        folder: where Ray Train keeps its files; it is made, and may be removed afterwards.
        seed: the seed of the trainer's random choices.
        on_worker: fits on a worker of the cluster, as a cluster of several machines needs. Otherwise fits in
            this process, which saves the five processes of Ray Train's controller, worker and watchers, and
            the 15 s that they take before the first round.
    """
    with run(f"fit {model.name}") as current:
        fitted = _fit_by_ray_train(data, model.trainer, parameters, folder, seed, on_worker)
        current.add_facts(params={**fitted.parameters, **fitted.chosen})
    return fitted


def save(folder: Path, fitted: Fitted, model: Model, matrices: Matrices) -> Predictor:
    """Writes the model into the folder, and loads it as serving does."""
    meta = ModelMeta(
        trainer=trainer_for(model.trainer).name,
        task=matrices.task,
        classes=matrices.classes,
        encoding=matrices.encoding,
        parameters={**fitted.parameters, **fitted.chosen},
    )
    save_model(folder, fitted.files, meta)
    return load_model(folder)


def _fit_by_ray_train(
    data: TrainingData,
    declared: Trainer,
    parameters: Mapping[str, Any],
    folder: Path,
    seed: int,
    on_worker: bool,
) -> Fitted:
    # Ray Train's controller polls its workers at this interval, and learns only then that they have finished.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    import ray
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    scaling = (
        ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": cores})
        if on_worker
        else ray.train.ScalingConfig(num_workers=0)  # Ray Train's local mode
    )
    config = {
        "data": [ray.put(data)],  # in a list, because Ray replaces a bare reference by its value
        "declared": declared,
        "parameters": dict(parameters),
        "seed": seed,
        "threads": cores,
    }
    result = DataParallelTrainer(
        _train_loop,
        train_loop_config=config,
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name="fit", storage_path=str(folder)),
    ).fit()
    fitted: Fitted = result.return_value
    return fitted


def _train_loop(config: dict[str, Any]) -> Fitted:
    """Fits the model; Ray Train calls this on its worker."""
    import ray

    (data,) = ray.get(config["data"])
    trainer = trainer_for(config["declared"])
    return trainer.fit(
        trainer.prepare(data),
        config["declared"],
        config["parameters"],
        seed=config["seed"],
        budget=Budget(config["threads"]),
    )
