"""Records trainings in MLflow: a run for each training, with nested runs for its steps and trials.

A build that trains is a run too. Nested in it are its trainings and the other stages that it ran. What has
ended is kept in memory until a training ends, so that MLflow is neither imported (4 s) nor called while the
training runs, and not at all if nothing was trained.

Every run is closed when it is written, so that none stays open if the process is killed. The run of a build is
written as KILLED, and gets its outcome when the build ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from headrace.kernel.properties import INPUT, REVISION, RUN
from headrace.kernel.run import Run, RunEvent
from headrace.kernel.time import micros

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowRecorder", "RunStore"]

_log = logging.getLogger(__name__)
_BUILD, _STAGE, _TRAINING = "build", "stage ", "train "
_STEPS = ("training set ", "split ", "tuning ", "fit ", "evaluation ")


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
    """Writes the runs of a training (kernel.run.Recorder) to MLflow when it has ended."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._steps: list[RunEvent] = []
        self._stages: list[RunEvent] = []
        self._written: dict[str, str] = {}  # run id → id of its MLflow run

    def record(self, event: RunEvent) -> None:
        """Keeps the end of a step or a stage; at the end of a training, writes it with its steps."""
        run = event.run
        if run.ended is None:
            return
        try:
            if run.job.startswith(_TRAINING):
                steps, self._steps = self._steps, []
                self._write([*steps, event])
            elif run.job.startswith(_STEPS):
                self._steps.append(event)
            elif run.job.startswith(_STAGE):
                self._stages.append(event)
            elif run.job == _BUILD:
                stages, self._stages = self._stages, []
                if run.id in self._written:
                    self._close_build(event, stages)
        except Exception:  # a finished training must not fail because MLflow does
            _log.warning("MLflow failed to store the runs of %s", run.job, exc_info=True)

    def _write(self, events: list[RunEvent]) -> None:
        """Writes a training, the last of the events, and its steps."""
        build = next((parent for parent in _parents(events[-1].run) if parent.job == _BUILD), None)
        if build is not None and build.id not in self._written:
            self._written[build.id] = self._create_run(
                build.job, build, "KILLED", None, {}, {}, {RUN: build.id}
            )
        for event in reversed(events):  # a parent ends after its children, and is written before them
            run, facts, status = event.run, event.run.facts, _status(event)
            outer = next(
                (self._written[parent.id] for parent in _parents(run) if parent.id in self._written), None
            )
            tags = {RUN: run.id} | {f"{INPUT}{dataset.name}": str(dataset.position) for dataset in run.inputs}
            tags |= {f"{REVISION}{source}": name for source, name in facts.get("revisions", {}).items()}
            run_id = self._create_run(
                run.job, run, status, outer, facts.get("params", {}), facts.get("metrics", {}), tags
            )
            self._written[run.id] = run_id
            for number, trial in enumerate(facts.get("trials", ()), 1):
                metrics = {name: value for name, value in trial.items() if name != "parameters"}
                self._create_run(f"trial {number}", run, status, run_id, trial["parameters"], metrics, {})

    def _close_build(self, event: RunEvent, stages: Sequence[RunEvent]) -> None:
        """Writes the outcome of a build that trained, and its stages, but those whose steps are written."""
        build, training = self._written[event.run.id], f"{_STAGE}train"
        for stage in stages:
            if not stage.run.job.startswith(training):
                facts = stage.run.facts
                rows = {} if facts.get("rows") is None else {"rows": facts["rows"]}
                tags = {RUN: stage.run.id, "mlflow.note.content": str(facts.get("what", stage.error or ""))}
                self._create_run(stage.run.job, stage.run, _status(stage), build, {}, rows, tags)
        assert event.run.ended is not None
        self._store.client.set_terminated(build, _status(event), micros(event.run.ended) // 1000)

    def _create_run(
        self,
        name: str,
        run: Run,
        status: str,
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
