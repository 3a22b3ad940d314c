"""deploy: serves MLflow models that others trained, each by a process of its own Python, on Ray Serve.

What is served is a record, the model set in force (serving.mlflow_models.model_set). A deployment puts the next
set in force, and `headrace up` follows it.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from headrace.config.settings import Settings
from headrace.flows.models.deploy_file import read_deploy_file
from headrace.flows.models.deploy_plan import PlannedModel, Planner, compare_sets, plan_rest
from headrace.kernel import faults
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.lock import find_holder, try_lock
from headrace.kernel.run import Dataset, record_with, run
from headrace.projects.running import find_up
from headrace.serving.endpoint import reserved_names
from headrace.serving.history import find_previous
from headrace.serving.mlflow_models import model_set as sets
from headrace.serving.mlflow_models.artifacts import remove_artifacts
from headrace.serving.mlflow_models.environments import remove_environments
from headrace.serving.mlflow_models.folders import artifacts_folder, environments_folder
from headrace.serving.mlflow_models.model_set import DeployedModel, ModelSet
from headrace.serving.mlflow_models.replica import make_spec
from headrace.serving.mlflow_models.states import read_problems, read_states
from headrace.serving.release import ReleaseFollower
from headrace.workspace import Workspace

__all__ = ["DeployReport", "deploy", "roll_back_models"]

_LONGEST_START = 300.0  # seconds within which the running endpoint must have started the models
_POLL = 0.2


class DeployReport(Struct, frozen=True):
    """What a deployment did, or would do.

    Attributes:
        models: what was done with each model, ordered by name.
        is_dry_run: whether nothing was done.
        set: the id of the model set in force; None: there is none.
        is_recorded: whether the set was put in force by this deployment.
        is_running: whether `headrace up` runs and serves it.
        unstarted: model → why the running endpoint has not started it.
    """

    models: tuple[PlannedModel, ...]
    is_dry_run: bool = False
    set: str | None = None
    is_recorded: bool = False
    is_running: bool = False
    unstarted: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether no model was refused, and all have started."""
        return not self.unstarted and all(model.action != "refused" for model in self.models)


def deploy(workspace: Workspace, file: Path, *, dry_run: bool = False, prune: bool = False) -> DeployReport:
    """Puts in force the models that a file selects.

    A model that cannot be served is refused alone; if a version of it is in force, that version stays. If the
    project's `up` runs, this returns when each new or changed model has started.

    Args:
        workspace: the project to work on.
        file: the file (flows.models.deploy_file).
        dry_run: whether to plan only.
        prune: whether models in force that the file does not select are removed.

    Raises:
        CallError: the file does not exist or is not valid.
        ProjectError: the profile does not serve on Ray Serve.
        Unavailable: MLflow or the log cannot be reached, or another deployment runs.
    """
    settings = workspace.settings
    _check_profile(settings)
    content = read_deploy_file(file)
    with _hold_lock(settings):
        history = sets.history(workspace.log)
        current = history[-1] if history else None
        in_force = current.models if current else []
        planner = Planner(settings, file, content, in_force, _taken_names(workspace), is_dry_run=dry_run)
        candidates = planner.plan()
        rest, staying = plan_rest(in_force, candidates, prune=prune)
        planned = [*(candidate.planned for candidate in candidates), *rest]
        models = tuple(sorted(planned, key=lambda model: model.name))
        if dry_run:
            return DeployReport(models, is_dry_run=True, set=current.id if current else None)
        accepted = [candidate.deployed for candidate in candidates if candidate.deployed is not None]
        new = sets.make([*accepted, *staying], by=getpass.getuser())
        is_recorded = new.models != in_force
        if is_recorded:
            _record(workspace, new, in_force)
        _remove_unneeded(workspace)
    if not is_recorded:
        return DeployReport(models, set=current.id if current else None)
    return _await(settings, new, DeployReport(models, set=new.id, is_recorded=True))


def roll_back_models(workspace: Workspace) -> DeployReport:
    """Puts the set of models before the present one in force again. MLflow is not needed.

    Raises:
        CallError: there is no earlier set.
        ProjectError: the profile does not serve on Ray Serve.
        Refused, Unavailable: a model of that set cannot be prepared again; the present set stays in force.
    """
    settings = workspace.settings
    _check_profile(settings)
    with _hold_lock(settings):
        history = sets.history(workspace.log)
        new = sets.make_rollback(workspace.log, by=getpass.getuser())
        for model in new.models:
            make_spec(settings, model)
        _record(workspace, new, history[-1].models)
        _remove_unneeded(workspace)
    planned = tuple(compare_sets(history[-1].models, new.models))
    return _await(settings, new, DeployReport(planned, set=new.id, is_recorded=True))


def _check_profile(settings: Settings) -> None:
    if settings.deployment != "ray_serve":
        raise ProjectError(
            "MLflow models are served on Ray Serve, and this profile runs the replicas as processes",
            where=f"headrace.toml: profile.{settings.profile_name}",
            remedy='Add: serving = "ray_serve"',
        )


@contextmanager
def _hold_lock(settings: Settings) -> Iterator[None]:
    path = settings.make_state() / "deploy.lock"
    file = try_lock(path)
    if file is None:
        raise Unavailable(f"another deployment runs, as process {find_holder(path)}", where=str(path))
    with file:
        yield


def _taken_names(workspace: Workspace) -> dict[str, str]:
    """Names that an MLflow model may not have → what has them: paths of the endpoint, and released models."""
    releases = ReleaseFollower(workspace.log)
    releases.poll()
    taken = dict.fromkeys(reserved_names(), "a path of the endpoint")
    return taken | dict.fromkeys(releases.in_force, "a released model of the project")


def _record(workspace: Workspace, new: ModelSet, in_force: Sequence[DeployedModel]) -> None:
    """Puts the set in force. For lineage, each model that it changes has a run of its own."""
    with workspace.lineage.recorder() as recorder, record_with(recorder), run("deployment") as deployment:
        deployment.add_facts(set=new.id, by=new.by)
        faults.reach("deploy.before_record")
        sets.append(workspace.log, new)
        faults.reach("deploy.after_record")
        for model in new.models:
            if model in in_force:
                continue
            source = Dataset("model", f"{model.model}@{model.version}", facts={"source": model.source})
            facts = {"version": str(model.version), "python": model.needs.python, "set": new.id}
            with run(f"deploy {model.name}", [source]) as job:
                job.add_output(Dataset("endpoint", model.name, facts=facts))


def _remove_unneeded(workspace: Workspace) -> None:
    """Removes what neither the set in force nor the set before it needs, such as what a refused model left."""
    settings = workspace.settings
    history = sets.history(workspace.log)
    kept = [*history[-1:], find_previous(history)]
    needed = [model for models in kept if models is not None for model in models.models]
    remove_artifacts(artifacts_folder(settings), {model.artifact for model in needed})
    remove_environments(environments_folder(settings), {model.needs.digest for model in needed})


def _await(settings: Settings, models: ModelSet, report: DeployReport) -> DeployReport:
    """Waits until the running endpoint has started the models; reports those that it has not."""
    if find_up(settings) is None:
        return report
    deadline = time.monotonic() + _LONGEST_START
    while unstarted := _find_unstarted(settings, models.models):
        problems = read_problems(settings, models.id)
        unstarted |= {name: problems[name].what for name in unstarted if name in problems}
        is_hopeless = unstarted.keys() <= problems.keys()
        if is_hopeless or find_up(settings) is None or time.monotonic() > deadline:
            break
        time.sleep(_POLL)
    return replace(report, is_running=True, unstarted=unstarted)


def _find_unstarted(settings: Settings, models: Sequence[DeployedModel]) -> dict[str, str]:
    """Model → why it does not answer yet, or a replica of another version still does."""
    digests = {model.name: model.digest for model in models}
    states = list(read_states(settings))
    idle = {model.name for model in models if model.is_scaled_to_zero} - {state.name for state in states}
    unstarted = dict.fromkeys(digests.keys() - idle, "it has no replica yet")
    for state in states:
        if digests.get(state.name) == state.digest and unstarted.get(state.name) is not None:
            if state.is_ready:
                del unstarted[state.name]
            else:
                unstarted[state.name] = state.failure or "its process starts"
    for state in states:
        if digests.get(state.name) != state.digest:
            unstarted[state.name] = f"a replica of version {state.version} has not ended"
    return unstarted
