"""What the deployed MLflow models do now: state, version, Python and memory of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.config.settings import Settings
from headrace.kernel.process import memory_of
from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.states import ReplicaState, read_problems, read_states

__all__ = ["DeployedStatus", "read_deployed"]


@dataclass(frozen=True)
class DeployedStatus:
    """A deployed MLflow model.

    Attributes:
        name: the name in its paths.
        model, version: its registered name and the number of its version.
        python: the version of its Python.
        state: `ready` (a replica answers), `starting` (none does yet), `down` (its process died and is started
            again), or `not running` (`headrace up` does not serve it).
        replicas: how many replicas answer.
        pids: the ids of the models' processes.
        memory: the bytes of memory of its processes.
        restarts: how often its processes were started again.
        note: why it is not ready, or why its process ended last.
    """

    name: str
    model: str
    version: int
    python: str
    state: Literal["ready", "starting", "down", "not running"]
    replicas: int
    pids: tuple[int, ...]
    memory: int
    restarts: int
    note: str


def read_deployed(
    settings: Settings, models: Sequence[DeployedModel], *, is_running: bool
) -> tuple[DeployedStatus, ...]:
    """What these models do.

    Args:
        settings: the project's settings.
        models: the models of the set in force.
        is_running: whether the project's `up` runs.
    """
    states = list(read_states(settings)) if is_running else []
    problems = read_problems(settings) if is_running else {}
    return tuple(
        _status(
            model,
            [state for state in states if state.name == model.name and state.digest == model.digest],
            problems.get(model.name, ""),
            is_running,
        )
        for model in models
    )


def _status(
    model: DeployedModel, states: Sequence[ReplicaState], problem: str, is_running: bool
) -> DeployedStatus:
    ready = [state for state in states if state.is_ready]
    failures = [state.failure for state in states if state.failure is not None]
    return DeployedStatus(
        name=model.name,
        model=model.model,
        version=model.version,
        python=states[0].python if states else model.needs.python,
        state="not running" if not is_running else "ready" if ready else "down" if failures else "starting",
        replicas=len(ready),
        pids=tuple(state.pid for state in states),
        memory=sum(memory_of(state.pid) or 0 for state in states),
        restarts=sum(state.restarts for state in states),
        note=problem or (failures[-1] if failures else ""),
    )
