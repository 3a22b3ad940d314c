"""What the deployed MLflow models do now: state, version, Python and memory of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.process import memory_of
from headrace.serving.mlflow_models.model_set import DeployedModel, ModelSet
from headrace.serving.mlflow_models.states import Problem, ReplicaState, read_problems, read_states

__all__ = ["DeployedStatus", "read_deployed"]

State = Literal["ready", "starting", "down", "idle", "not running"]


class DeployedStatus(Struct, frozen=True):
    """A deployed MLflow model.

    Attributes:
        name: the name in its paths.
        model, version: its registered name and the number of its version.
        python: the version of its Python.
        state: `ready` (a replica answers), `starting` (none does yet), `down` (its process died and is started
            again, or Ray Serve cannot start it), `idle` (its replicas are scaled to zero), or `not running`
            (`headrace up` does not serve it).
        replicas: how many replicas answer.
        pids: the ids of the models' processes.
        memory: the bytes of memory of its processes.
        restarts: how often its processes were started again.
        logs: the files of what its processes print.
        note: why it is not ready, or why its process ended last.
    """

    name: str
    model: str
    version: int
    python: str
    state: State
    replicas: int
    pids: tuple[int, ...]
    memory: int
    restarts: int
    logs: tuple[str, ...]
    note: str


def read_deployed(
    settings: Settings, models: ModelSet | None, *, is_running: bool
) -> tuple[DeployedStatus, ...]:
    """What the models of a set do.

    Args:
        settings: the project's settings.
        models: the set in force; None: there is none.
        is_running: whether the project's `up` runs.
    """
    if models is None:
        return ()
    states = list(read_states(settings)) if is_running else []
    problems = read_problems(settings, models.id) if is_running else {}
    return tuple(
        _status(
            model,
            [state for state in states if state.name == model.name and state.digest == model.digest],
            problems.get(model.name),
            is_running,
        )
        for model in models.models
    )


def _status(
    model: DeployedModel, states: Sequence[ReplicaState], problem: Problem | None, is_running: bool
) -> DeployedStatus:
    failures = [state.failure for state in states if state.failure is not None]
    return DeployedStatus(
        name=model.name,
        model=model.model,
        version=model.version,
        python=states[0].python if states else model.needs.python,
        state=_name_state(model, states, problem) if is_running else "not running",
        replicas=sum(state.is_ready for state in states),
        pids=tuple(state.pid for state in states),
        memory=sum(memory_of(state.pid) or 0 for state in states),
        restarts=sum(state.restarts for state in states),
        logs=tuple(state.log for state in states),
        note=problem.what if problem is not None else failures[-1] if failures else "",
    )


def _name_state(model: DeployedModel, states: Sequence[ReplicaState], problem: Problem | None) -> State:
    if any(state.is_ready for state in states):
        return "ready"
    if any(state.failure for state in states) or (problem is not None and not problem.is_answered):
        return "down"
    return "idle" if model.is_scaled_to_zero and not states else "starting"
