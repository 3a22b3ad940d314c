"""Tuning: Ray Tune searches a model's parameters with Optuna, judged on the validation part."""

from __future__ import annotations

import logging
import math
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.declare.metrics import better
from headrace.declare.model import Model
from headrace.declare.search import ChoiceSpace, FloatSpace, IntegerSpace, Space, Tune
from headrace.declare.trainers import Trainer
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.run import run
from headrace.training.evaluation import evaluator_for
from headrace.training.fit import Progress
from headrace.training.matrices import Matrices
from headrace.training.report import Trial
from headrace.training.trainers import trainer_for
from headrace.training.trainers.port import Budget, TrainingData

__all__ = ["search"]

_NICENESS = 10  # of a trial, so that a build does not starve the processes of `up`, such as replicas


def search(
    matrices: Matrices, model: Model, tune: Tune, folder: Path, progress: Progress | None = None
) -> list[Trial]:
    """Runs the trials, as many at a time as the cluster has CPUs, and returns them, the best first.

    The process must be connected to Ray (`cluster.connect`).

    Args:
        matrices: put into Ray's object store once, for all trials.
        model: its trainer supplies the parameters that are not searched.
        tune: the search space, and how to search it.
        folder: where Ray Tune keeps its files; it is made, and may be removed afterwards.
        progress: called after each trial.

    Raises:
        ProjectError: the metric does not exist, or the trainer does not accept a parameter.
        Refused: every trial had outputs that are NaN or infinite.
        HeadraceError: a trial failed.
    """
    mode = better(tune.metric)
    with run(f"tuning {model.name}") as current:
        trials = _search_by_ray_tune(matrices.folds, model.trainer, tune, mode, folder, progress)
        trials.sort(key=lambda trial: _rank(trial, mode))
        current.add_facts(
            metric=tune.metric,
            trials=[
                {"parameters": trial.parameters, **trial.chosen}
                | ({} if trial.value is None else {tune.metric: trial.value})
                for trial in trials
            ],
        )
        if not trials or trials[0].value is None:
            raise Refused(
                f"all {len(trials)} trials gave outputs that are NaN or infinite",
                where=f"model {model.name}",
                remedy="Check the trainer's parameters and the search space: a NaN there causes this.",
            )
    return trials


def _search_by_ray_tune(
    folds: Sequence[TrainingData],
    declared: Trainer,
    tune: Tune,
    mode: str,
    folder: Path,
    progress: Progress | None,
) -> list[Trial]:
    # A search takes seconds: it needs no files for TensorBoard, and no snapshots of its progress.
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_GLOBAL_CHECKPOINT_S="86400")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import optuna
    import ray
    from ray import tune as ray_tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the error of a trial is raised below
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    is_grid, trials = tune.n_trials is None, tune.number_of_trials
    sampler = optuna.samplers.TPESampler(seed=tune.seed, n_startup_trials=max(4, trials // 2))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(_trainable(ray.put(tuple(folds)), declared, tune), {"cpu": 1}),
        param_space={name: _ray_space(space, is_grid) for name, space in tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            metric="value",
            mode=mode,
            search_alg=None if is_grid else OptunaSearch(sampler=sampler),
            num_samples=1 if is_grid else trials,
            max_concurrent_trials=min(cores, trials),
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=_callbacks(tune, progress),
            failure_config=ray_tune.FailureConfig(fail_fast=True),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        results = tuner.fit()
    if results.errors:
        error = results.errors[0]
        cause = getattr(error, "cause", None)  # of Ray's error: what the trial raised
        if isinstance(cause, HeadraceError):
            raise cause
        raise HeadraceError(f"a trial failed: {error}") from error
    return [_to_trial(result.config or {}, result.metrics) for result in results]


def _to_trial(parameters: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> Trial:
    if not metrics or "value" not in metrics:
        raise HeadraceError("a trial ended without a result")
    value = None if math.isnan(metrics["value"]) else metrics["value"]
    return Trial(dict(parameters), value, metrics["chosen"], metrics["time_total_s"])


def _rank(trial: Trial, mode: str) -> float:
    """The sort key that puts the best trial first, and trials without a value last."""
    if trial.value is None:
        return math.inf
    return -trial.value if mode == "max" else trial.value


def _trainable(folds: Any, declared: Trainer, tune: Tune) -> Any:
    """Makes the class for Ray Tune whose instances run one trial after another. `folds` is a Ray reference."""
    import ray
    from ray import tune as ray_tune

    class Trials(ray_tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            os.nice(_NICENESS)
            self._trainer = trainer_for(declared)
            self._folds = ray.get(folds)
            self._prepared = [self._trainer.prepare(fold) for fold in self._folds]
            self._config = config

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._config = new_config
            return True

        def step(self) -> dict[str, Any]:
            evaluator = evaluator_for(self._folds[-1].task)
            values = []
            for fold, prepared in zip(self._folds, self._prepared, strict=True):
                fitted = self._trainer.fit(prepared, declared, self._config, seed=tune.seed, budget=Budget())
                try:
                    values.append(evaluator.metric(tune.metric, fold.validation.target, fitted.validation))
                except Refused:  # NaN marks a trial that must not be chosen
                    values.append(math.nan)
            return {"value": statistics.fmean(values), "chosen": dict(fitted.chosen), "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Saves nothing: a trial is one step, so it cannot be resumed."""

    return Trials


def _callbacks(tune: Tune, progress: Progress | None) -> list[Any]:
    if progress is None:
        return []
    report = progress
    from ray import tune as ray_tune

    class TrialCount(ray_tune.Callback):  # type: ignore[misc]
        done = 0

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            self.done += 1
            report("trials", self.done, tune.number_of_trials)

        def __reduce__(self) -> Any:  # Ray stores its callbacks with the search: not what they report to
            return ray_tune.Callback, ()

    return [TrialCount()]


def _ray_space(space: Space, is_grid: bool) -> Any:
    from ray import tune as ray_tune

    if isinstance(space, IntegerSpace):
        return ray_tune.randint(space.low, space.high + 1)  # Ray excludes the upper end
    if isinstance(space, FloatSpace):
        return (ray_tune.loguniform if space.log else ray_tune.uniform)(space.low, space.high)
    assert isinstance(space, ChoiceSpace)
    return (ray_tune.grid_search if is_grid else ray_tune.choice)(list(space.values))
