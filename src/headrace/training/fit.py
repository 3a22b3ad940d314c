"""The fit: Ray Train fits the model with the parameters that the search found."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.declare.model import Model
from headrace.declare.trainers import Trainer
from headrace.kernel.errors import HeadraceError
from headrace.kernel.extras import require
from headrace.kernel.run import run
from headrace.training.matrices import Matrices
from headrace.training.trainers import trainer_for
from headrace.training.trainers.folder import Predictor, load_model, save_model
from headrace.training.trainers.port import Budget, Fitted, ModelMeta, TrainingData

__all__ = ["Progress", "fit_folds", "save"]

Progress = Callable[[str, int, int], None]
"""Receives progress: the name of what is counted, how many are done, and how many there are in all."""


def fit_folds(
    folds: Sequence[TrainingData],
    model: Model,
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    seed: int = 0,
    on_worker: bool = False,
) -> list[Fitted]:
    """Fits with these parameters on each fold, in one run of Ray Train, with all the cluster's CPUs, and its
    GPUs if the trainer uses them.

    The process must be connected to Ray (`cluster.connect`).

    Args:
        folds: the trainer stops early by each one's validation part.
        model: its trainer supplies the parameters that `parameters` leaves out.
        parameters: those that the search found.
        folder: where Ray Train keeps its files; it is made, and may be removed afterwards.
        seed: the seed of the trainer's random choices.
        on_worker: fits on a worker of the cluster, as a cluster of several machines needs. Otherwise a trainer
            of one process fits in this one, which saves the five processes of Ray Train's controller, worker
            and watchers, and the 15 s that they take before the first round.

    Raises:
        ProjectError: the trainer does not accept a parameter.
        Unavailable: the trainer's library is not installed.
    """
    with run(f"fit {model.name}") as current:
        fits = _fit_by_ray_train(folds, model.trainer, parameters, folder, seed, on_worker)
        current.add_facts(params={**fits[-1].parameters, **fits[-1].chosen})
    return fits


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
    folds: Sequence[TrainingData],
    declared: Trainer,
    parameters: Mapping[str, Any],
    folder: Path,
    seed: int,
    on_worker: bool,
) -> list[Fitted]:
    # Ray Train's controller polls its workers at this interval, and learns only then that they have finished.
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    import ray
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    processes = declared.processes
    gpu = _gpu_share(processes, ray.cluster_resources().get("GPU", 0)) if declared.uses_gpu else 0
    in_process = processes == 1 and not on_worker
    scaling = (
        ray.train.ScalingConfig(num_workers=0)  # Ray Train's local mode
        if in_process
        else ray.train.ScalingConfig(
            num_workers=processes,
            use_gpu=gpu > 0,
            resources_per_worker={"CPU": cores / processes} | ({"GPU": gpu} if gpu else {}),
        )
    )
    config = {
        "folds": [ray.put(fold) for fold in folds],
        "declared": declared,
        "parameters": dict(parameters),
        "seed": seed,
        "budget": Budget(max(1, cores // processes), gpu=gpu > 0),
    }
    trainer = DataParallelTrainer(
        _train_loop,
        train_loop_config=config,
        backend_config=_torch_backend(gpu) if processes > 1 else None,
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name="fit", storage_path=str(folder)),
    )
    try:
        fits: list[Fitted] = trainer.fit().return_value
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause = getattr(failure, "_base_exc", failure)  # of Ray's wrapper
            if isinstance(cause, HeadraceError):
                raise cause from error
        raise
    return fits


def _gpu_share(processes: int, gpus: float) -> float:
    """The share of a GPU that each process gets; 0 without GPUs."""
    return 1 / math.ceil(processes / int(gpus)) if gpus >= 1 else 0


def _torch_backend(gpu: float) -> Any:
    """How PyTorch's processes exchange gradients. NCCL refuses two of them on one GPU; gloo does not."""
    require("torch", "training on several workers")
    from ray.train.torch import TorchConfig
    from torch import distributed

    return TorchConfig(backend="nccl" if gpu == 1 and distributed.is_nccl_available() else "gloo")


def _train_loop(config: dict[str, Any]) -> list[Fitted]:
    """Fits a model on each fold. Ray Train calls this on each worker, and returns the first one's result."""
    import ray

    declared, parameters, seed = config["declared"], config["parameters"], config["seed"]
    trainer = trainer_for(declared)
    return [
        trainer.fit(trainer.prepare(fold), declared, parameters, seed=seed, budget=config["budget"])
        for fold in ray.get(config["folds"])
    ]
