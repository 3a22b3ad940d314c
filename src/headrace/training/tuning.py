"""Tuning: Ray Tune searches a model's parameters with Optuna, judged on the validation part."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.declare.metrics import better
from headrace.declare.model import Model, XGBoost
from headrace.declare.search import Choice, Floats, Integers, Space, Tune
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.run import run
from headrace.training.evaluation import metric
from headrace.training.fit import Prepared, Progress
from headrace.training.trainers import xgboost

__all__ = ["Trial", "search"]

_NICENESS = 10  # of a trial: what `up` runs, replicas above all, is never starved by a build beside it


class Trial(Struct, frozen=True):
    """One setting that was tried.

    Attributes:
        parameters: the setting.
        value: the metric on the validation part; None: the fitted model's answers were not finite numbers.
        rounds: where the fit stopped.
        seconds: how long it took.
    """

    parameters: dict[str, Any]
    value: float | None
    rounds: int
    seconds: float


def search(
    prepared: Prepared, model: Model, tune: Tune, folder: Path, progress: Progress | None = None
) -> list[Trial]:
    """Tries settings, as many at a time as the cluster has CPUs; the best comes first.

    The process must be connected to Ray (`cluster.connect`).

    Args:
        prepared: the matrices; they go to Ray once.
        model: its trainer gives what is not searched.
        tune: what is searched, and how.
        folder: where Ray Tune keeps what it must; it is made, and may be removed afterwards.
        progress: told of each trial that is done.

    Raises:
        ProjectError: the metric does not exist.
        Refused: no trial's answers were finite numbers.
        HeadraceError: a trial failed.
    """
    mode = better(tune.metric)
    with run(f"tuning {model.name}") as this:
        trials = _by_ray_tune(prepared, model.trainer, tune, mode, folder, progress)
        trials.sort(key=lambda trial: _rank(trial, mode))
        this.fact(
            metric=tune.metric,
            trials=[
                {"parameters": t.parameters, "rounds": t.rounds}
                | ({} if t.value is None else {tune.metric: t.value})
                for t in trials
            ],
        )
        if not trials or trials[0].value is None:
            raise Refused(
                f"the answers of all {len(trials)} trials are NaN or infinite",
                where=f"model {model.name}",
                remedy="Look at the trainer's parameters and at the search space: a NaN there does this.",
            )
    return trials


def _by_ray_tune(
    prepared: Prepared, trainer: XGBoost, tune: Tune, mode: str, folder: Path, progress: Progress | None
) -> list[Trial]:
    # No files for TensorBoard and the like, and no snapshots of a search of some seconds.
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_GLOBAL_CHECKPOINT_S="86400")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import optuna
    import ray
    from ray import tune as ray_tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    told = {"data": ray.put((prepared.train, prepared.validation)), "trainer": trainer, "metric": tune.metric}
    sampler = optuna.samplers.TPESampler(seed=tune.seed, n_startup_trials=max(4, tune.n_trials // 2))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(_trainable(told), {"cpu": 1}),
        param_space={name: _space(one) for name, one in tune.space.items()},
        tune_config=ray_tune.TuneConfig(
            metric="value",
            mode=mode,
            search_alg=OptunaSearch(sampler=sampler),
            num_samples=tune.n_trials,
            max_concurrent_trials=min(cores, tune.n_trials),
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
        raise HeadraceError(f"a trial failed: {results.errors[0]}") from results.errors[0]
    return [
        Trial(
            dict(one.config or {}),
            None if math.isnan(m["value"]) else m["value"],
            m["rounds"],
            m["time_total_s"],
        )
        for one in results
        for m in [_reported(one.metrics)]
    ]


def _rank(trial: Trial, mode: str) -> float:
    """The best first; those without a value last."""
    if trial.value is None:
        return math.inf
    return -trial.value if mode == "max" else trial.value


def _reported(metrics: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not metrics or "value" not in metrics:
        raise HeadraceError("a trial ended without a result")
    return metrics


def _trainable(told: dict[str, Any]) -> Any:
    """Ray Tune's class for one trial after another in one process."""
    import ray
    from ray import tune as ray_tune

    class Fitting(ray_tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            os.nice(_NICENESS)
            xgboost.import_alone()
            self._train, self._validation = ray.get(told["data"])
            self._matrices: dict[int | None, tuple[Any, Any]] = {}
            self._config = config

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._config = new_config
            return True

        def step(self) -> dict[str, Any]:
            trainer: XGBoost = told["trainer"]
            parameters = {**trainer.parameters, **self._config}
            bins = parameters.get("max_bin")
            if bins not in self._matrices:
                self._matrices = {bins: xgboost.matrices_of(self._train, self._validation, max_bin=bins)}
            _, rounds, answers, _ = xgboost.fit(
                self._train,
                self._validation,
                parameters,
                rounds=trainer.num_boost_round,
                early_stopping=trainer.early_stopping_rounds,
                matrices=self._matrices[bins],
            )
            try:
                value = metric(told["metric"], self._validation[1], answers)
            except Refused:  # NaN tells the search that this setting is not to be chosen
                value = math.nan
            return {"value": value, "rounds": rounds, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """A trial is one step: there is nothing to go on from."""

    return Fitting


def _callbacks(tune: Tune, progress: Progress | None) -> list[Any]:
    if progress is None:
        return []
    told = progress
    from ray import tune as ray_tune

    class Telling(ray_tune.Callback):  # type: ignore[misc]
        done = 0

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            self.done += 1
            told("trials", self.done, tune.n_trials)

    return [Telling()]


def _space(space: Space) -> Any:
    from ray import tune as ray_tune

    if isinstance(space, Integers):
        return ray_tune.randint(space.low, space.high + 1)  # Ray leaves the upper end out
    if isinstance(space, Floats):
        return (ray_tune.loguniform if space.log else ray_tune.uniform)(space.low, space.high)
    assert isinstance(space, Choice)
    return ray_tune.choice(list(space.values))
