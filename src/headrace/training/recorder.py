"""The recorder that shows trainings in MLflow: a run for each, its steps and trials nested in it.

Runs are told to it as they happen, and kept until the outermost of them ends: MLflow is neither
imported (4 s) nor asked while the work goes on, and not at all where nothing was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from headrace.kernel.run import Run, RunEvent
from headrace.kernel.time import micros

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowRecorder", "Tracked"]

_log = logging.getLogger(__name__)
_JOBS = ("train ", "training set ", "tuning ", "fit ", "register ", "build")


class Tracked(Protocol):
    """Where the runs go: the registry."""

    @property
    def client(self) -> MlflowClient: ...

    @property
    def experiment(self) -> str: ...


class MlflowRecorder:
    """Listens to runs (kernel.run.Recorder) and writes those of a training to MLflow when it has ended."""

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._ended: list[RunEvent] = []

    def record(self, event: RunEvent) -> None:
        if event.run.ended is None or not event.run.job.startswith(_JOBS):
            return
        self._ended.append(event)
        if any(_shown(one) for one in _parents(event.run)):
            return  # an outer run will end later
        ended, self._ended = self._ended, []
        if not any(one.run.job.startswith("train ") for one in ended):
            return
        try:
            self._write(ended)
        except Exception:  # what MLflow lacks must not make a training fail that is done
            _log.warning("MLflow did not take the runs of %s", event.run.job, exc_info=True)

    def _write(self, ended: list[RunEvent]) -> None:
        written: dict[str, str] = {}
        for event in reversed(ended):  # a parent ends after its children, and is written before them
            run = event.run
            outer = next((written[one.id] for one in _parents(run) if one.id in written), None)
            status = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(event.outcome, "KILLED")
            tags = {
                "headrace.run": run.id,
                **{f"headrace.input.{one.name}": str(one.position) for one in run.inputs},
            }
            facts = run.facts
            written[run.id] = self._run(
                run.job, run, status, outer, facts.get("params", {}), facts.get("metrics", {}), tags
            )
            for number, trial in enumerate(facts.get("trials", ())):
                found = {name: value for name, value in trial.items() if name != "parameters"}
                self._run(f"trial {number + 1}", run, status, written[run.id], trial["parameters"], found, {})

    def _run(
        self,
        name: str,
        run: Run,
        status: str,
        parent: str | None,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        from mlflow.entities import Metric, Param

        client = self._tracked.client
        began = micros(run.started) // 1000
        ended = began if run.ended is None else micros(run.ended) // 1000
        nested = {} if parent is None else {"mlflow.parentRunId": parent}
        made = client.create_run(
            self._tracked.experiment, start_time=began, tags={**tags, **nested, "mlflow.runName": name}
        )
        run_id = str(made.info.run_id)
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), ended, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
        )
        client.set_terminated(run_id, status, ended)
        return run_id


def _parents(run: Run) -> list[Run]:
    found = []
    while run.parent is not None:
        run = run.parent
        found.append(run)
    return found


def _shown(run: Run) -> bool:
    return run.job.startswith(_JOBS)
