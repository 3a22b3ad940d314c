"""The recorder that shows trainings in MLflow: a run for each, its steps and trials nested in it.

The steps of a training are kept until it ends: MLflow is neither imported (4 s) nor asked while the
work goes on, and not at all where nothing was trained.
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

__all__ = ["MlflowRecorder", "Tracked"]

_log = logging.getLogger(__name__)
_BUILD, _TRAINING, _STEPS = "build", "train ", ("training set ", "tuning ", "fit ")


class Tracked(Protocol):
    """Where the runs go: the registry."""

    @property
    def client(self) -> MlflowClient: ...

    @property
    def experiment(self) -> str: ...


class MlflowRecorder:
    """Listens to runs (kernel.run.Recorder) and writes those of a training to MLflow when it has ended.

    A build that trains is a run in MLflow too: its trainings are nested in it.
    """

    def __init__(self, tracked: Tracked) -> None:
        self._tracked = tracked
        self._steps: list[RunEvent] = []
        self._written: dict[str, str] = {}  # run → MLflow's run

    def record(self, event: RunEvent) -> None:
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
                self._tracked.client.set_terminated(
                    self._written[run.id], _status(event), micros(run.ended) // 1000
                )
        except Exception:  # what MLflow lacks must not make a training fail that is done
            _log.warning("MLflow did not take the runs of %s", run.job, exc_info=True)

    def _write(self, ended: list[RunEvent]) -> None:
        """The training, which comes last, and its steps."""
        outer = next((one for one in _parents(ended[-1].run) if one.job.startswith(_BUILD)), None)
        if outer is not None and outer.id not in self._written:
            self._written[outer.id] = self._run(outer.job, outer, None, None, {}, {}, {})
        for event in reversed(ended):  # a parent ends after its children, and is written before them
            run, facts, status = event.run, event.run.facts, _status(event)
            parent = next((self._written[one.id] for one in _parents(run) if one.id in self._written), None)
            tags = {RUN: run.id}
            tags |= {f"{INPUT}{one.name}": str(one.position) for one in run.inputs}
            own = self._run(
                run.job, run, status, parent, facts.get("params", {}), facts.get("metrics", {}), tags
            )
            self._written[run.id] = own
            for number, trial in enumerate(facts.get("trials", ())):
                found = {name: value for name, value in trial.items() if name != "parameters"}
                self._run(f"trial {number + 1}", run, status, own, trial["parameters"], found, {})

    def _run(
        self,
        name: str,
        run: Run,
        status: str | None,
        parent: str | None,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        client = self._tracked.client  # it tells MLflow how to behave before it is imported
        from mlflow.entities import Metric, Param

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
        if status is not None:
            client.set_terminated(run_id, status, ended)
        return run_id


def _parents(run: Run) -> list[Run]:
    found = []
    while run.parent is not None:
        run = run.parent
        found.append(run)
    return found


def _status(event: RunEvent) -> str:
    return {"COMPLETE": "FINISHED", "FAIL": "FAILED"}.get(event.outcome, "KILLED")
