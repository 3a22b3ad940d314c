"""Records trainings in MLflow: a run for each training, with nested runs for its steps and trials.

The steps of a training are kept in memory until it ends, so that MLflow is neither imported (4 s) nor called
while the training runs, and not at all if nothing was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headrace.kernel.properties import INPUT, RUN
from headrace.kernel.run import Run, RunEvent
from headrace.kernel.time import micros

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowRecorder", "RunStore"]

_log = logging.getLogger(__name__)
_BUILD, _TRAINING, _STEPS = "build", "train ", ("training set ", "split ", "tuning ", "fit ", "evaluation ")


class RunStore(Protocol):
    """Where the runs are written: the registry.

    Attributes:
        client: MLflow's client.
        experiment: the id of the MLflow experiment.
    """

    @property
    def client(self) -> MlflowClient: ...

    @property
    def experiment(self) -> str: ...


class MlflowRecorder:
    """Writes the runs of a training (kernel.run.Recorder) to MLflow when it has ended.

    A build that trains becomes a run in MLflow too, and its trainings are nested in it.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._steps: list[RunEvent] = []
        self._written: dict[str, str] = {}  # run id → id of its MLflow run

    def record(self, event: RunEvent) -> None:
        """Keeps the end of a step; at the end of a training, writes it with its steps."""
        run = event.run
        if run.ended is None:
            return
        try:
            if run.job.startswith(_TRAINING):
                steps, self._steps = self._steps, []
                self._write([*steps, event])
            elif run.job.startswith(_STEPS):
                self._steps.append(event)
            elif run.id in self._written:
                self._store.client.set_terminated(
                    self._written[run.id], _status(event), micros(run.ended) // 1000
                )
        except Exception:  # a finished training must not fail because MLflow does
            _log.warning("MLflow failed to store the runs of %s", run.job, exc_info=True)

    def _write(self, events: list[RunEvent]) -> None:
        """Writes a training, the last of the events, and its steps."""
        build = next((parent for parent in _parents(events[-1].run) if parent.job.startswith(_BUILD)), None)
        if build is not None and build.id not in self._written:
            self._written[build.id] = self._create_run(build.job, build, None, None, {}, {}, {})
        for event in reversed(events):  # a parent ends after its children, and is written before them
            run, facts, status = event.run, event.run.facts, _status(event)
            outer = next(
                (self._written[parent.id] for parent in _parents(run) if parent.id in self._written), None
            )
            tags = {RUN: run.id} | {f"{INPUT}{dataset.name}": str(dataset.position) for dataset in run.inputs}
            run_id = self._create_run(
                run.job, run, status, outer, facts.get("params", {}), facts.get("metrics", {}), tags
            )
            self._written[run.id] = run_id
            for number, trial in enumerate(facts.get("trials", ()), 1):
                metrics = {name: value for name, value in trial.items() if name != "parameters"}
                self._create_run(f"trial {number}", run, status, run_id, trial["parameters"], metrics, {})

    def _create_run(
        self,
        name: str,
        run: Run,
        status: str | None,
        parent: str | None,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        client = self._store.client  # before MLflow is imported: it sets MLflow's environment
        from mlflow.entities import Metric, Param

        started = micros(run.started) // 1000
        ended = started if run.ended is None else micros(run.ended) // 1000
        nested = {} if parent is None else {"mlflow.parentRunId": parent}
        created = client.create_run(
            self._store.experiment, start_time=started, tags={**tags, **nested, "mlflow.runName": name}
        )
        run_id = str(created.info.run_id)
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), ended, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
        )
        if status is not None:
            client.set_terminated(run_id, status, ended)
        return run_id


def _parents(run: Run) -> list[Run]:
    """The runs that the run is nested in, the innermost first."""
    parents = []
    while run.parent is not None:
        run = run.parent
        parents.append(run)
    return parents


def _status(event: RunEvent) -> str:
    return {"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(event.outcome, "KILLED")
