"""The plan of a deployment: which models the file selects, and how they differ from the model set in force."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.flows.models.deploy_file import DeployFile, Selection
from headrace.kernel.counts import describe_ranges
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.scratch import make_scratch
from headrace.registry.other_models import OtherModels, OtherVersion
from headrace.serving.mlflow_models.artifacts import digest_artifact, is_intact, store_artifact
from headrace.serving.mlflow_models.environments import check_needs
from headrace.serving.mlflow_models.folders import artifacts_folder, environments_folder
from headrace.serving.mlflow_models.model_set import DeployedModel
from headrace.serving.mlflow_models.needs import read_needs
from headrace.serving.mlflow_models.options import ServingOptions, read_options
from headrace.serving.mlflow_models.signature import read_signature
from headrace.serving.mlflow_models.trial import try_model

__all__ = ["Action", "Candidate", "PlannedModel", "Planner", "compare_sets", "plan_rest"]

Action = Literal["new", "changed", "unchanged", "kept", "removed", "refused"]
_AT_ONCE = 3  # models that are prepared at the same time


class PlannedModel(Struct, frozen=True):
    """What a deployment does with one model.

    Attributes:
        name: the name in its paths; for a refused model that has none, its registered name or the pattern.
        action: `kept` is a model in force that the file does not select.
        version: the number of its version.
        python: the version of its Python.
        what: what changes, or why it is refused.
    """

    name: str
    action: Action
    version: int | None = None
    python: str | None = None
    what: str = ""


class Candidate(Struct, frozen=True):
    """A model that the file selects.

    Attributes:
        planned: what is done with it.
        model: its registered name.
        deployed: its record; None: it is refused.
    """

    planned: PlannedModel
    model: str
    deployed: DeployedModel | None = None


class Planner:
    """Plans a deployment.

    Args:
        settings: the project's settings.
        path: the file.
        file: its content: what is to be served.
        in_force: the models in force.
        taken: names that models may not have → why.
        is_dry_run: whether models are only read and their requirements resolved. Otherwise their artefacts are
            stored, their environments made, and their processes tried.
    """

    def __init__(
        self,
        settings: Settings,
        path: Path,
        file: DeployFile,
        in_force: Sequence[DeployedModel],
        taken: dict[str, str],
        *,
        is_dry_run: bool,
    ) -> None:
        self._settings, self._file, self._is_dry_run = settings, file, is_dry_run
        self._in_force = {model.name: model for model in in_force}
        self._taken = dict(taken)
        self._models = OtherModels(settings, file.mlflow, place=f"{path}: mlflow")

    def plan(self) -> list[Candidate]:
        """Plans every model that the file selects; a model that cannot be served is refused, alone.

        Raises:
            Unavailable: MLflow cannot be reached.
        """
        selected: dict[str, OtherVersion | str] = {}
        for selection in self._file.models:
            for name, version in self._select(selection):
                selected.setdefault(name, version)
        checked = [self._check(name, version) for name, version in selected.items()]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._compare, checked))

    def _select(self, selection: Selection) -> Iterator[tuple[str, OtherVersion | str]]:
        """Registered name → the version that is selected, or why there is none."""
        names = self._models.names(selection.name) if selection.is_pattern else [selection.name]
        if not names:
            yield selection.name, "no registered model matches this pattern"
        for name in names:
            version = self._models.find_version(name, alias=selection.alias, number=selection.version)
            if version is not None:
                yield name, version
            elif selection.alias is None:
                yield name, self._describe_missing(name, selection.version)
            elif not selection.is_pattern:
                _, aliases = self._models.list_versions(name)
                named = f"its aliases: {', '.join(aliases) or 'none'}"
                yield name, f"this model has no alias {selection.alias!r} in the registry; {named}"

    def _describe_missing(self, name: str, number: int | None) -> str:
        numbers, _ = self._models.list_versions(name)
        if number is None or not numbers:
            return "the registry has no version of this model"
        return f"the registry has no version {number} of this model; its versions: {describe_ranges(numbers)}"

    def _check(self, name: str, version: OtherVersion | str) -> Candidate | tuple[OtherVersion, ServingOptions]:
        """The version with its options, or its refusal."""
        if isinstance(version, str):
            return _refuse(name, name, None, Refused(version))
        try:
            if not version.is_ready:
                raise Refused("its registration in MLflow is not complete")
            options = read_options(name, version.tags)
            if options.name in self._taken:
                raise Refused(f"the name {options.name!r} is taken by {self._taken[options.name]}")
        except HeadraceError as error:
            return _refuse(name, name, version.version, error)
        self._taken[options.name] = f"model {name}"
        return version, options

    def _compare(self, checked: Candidate | tuple[OtherVersion, ServingOptions]) -> Candidate:
        """Compares the version with the set in force, and prepares it if it is new or changed."""
        if isinstance(checked, Candidate):
            return checked
        version, options = checked
        current = self._in_force.get(options.name)
        is_same = current is not None and (current.model, current.version, current.source) == (
            version.model,
            version.version,
            version.source,
        )
        if current is not None and is_same:
            if not is_intact(artifacts_folder(self._settings), current.artifact):
                is_same = False  # its artefact is stored again
            deployed = msgspec.structs.replace(current, options=options, timeout=self._file.timeout)
            if deployed == current and is_same:
                return _plan("unchanged", deployed)
        try:
            if current is None or not is_same:
                deployed = self._prepare(version, options)
            elif not self._is_dry_run and options.env_vars != current.options.env_vars:
                try_model(self._settings, deployed)
        except HeadraceError as error:
            return _refuse(options.name, version.model, version.version, error)
        if current is None:
            return _plan("new", deployed)
        if deployed == current:
            return _plan("unchanged", deployed, "its artefact is stored again")
        return _plan("changed", deployed, _describe_changes(current, deployed))

    def _prepare(self, version: OtherVersion, options: ServingOptions) -> DeployedModel:
        """Reads a version from its artefact, and tries it unless this is a dry run.

        Raises:
            Refused: it cannot be served here.
            Unavailable: MLflow or the package index cannot be reached.
        """
        if self._is_dry_run:
            with make_scratch() as folder:
                files = self._models.download(version.source, folder)
                deployed = self._read(version, options, files, digest_artifact(files))
            check_needs(environments_folder(self._settings), deployed.needs)
            return deployed
        root = artifacts_folder(self._settings)
        digest = store_artifact(root, lambda folder: self._models.download(version.source, folder))
        deployed = self._read(version, options, root / digest, digest)
        try_model(self._settings, deployed)
        return deployed

    def _read(self, version: OtherVersion, options: ServingOptions, files: Path, digest: str) -> DeployedModel:
        return DeployedModel(
            model=version.model,
            version=version.version,
            source=version.source,
            artifact=digest,
            needs=read_needs(files),
            signature=read_signature(files),
            options=options,
            timeout=self._file.timeout,
        )


def plan_rest(
    in_force: Sequence[DeployedModel], candidates: Sequence[Candidate], *, prune: bool
) -> tuple[list[PlannedModel], list[DeployedModel]]:
    """Plans the models in force that no accepted candidate replaces.

    Returns:
        What is done with each, and those that stay in force.
    """
    names = {candidate.deployed.name for candidate in candidates if candidate.deployed is not None}
    refused = {candidate.model for candidate in candidates if candidate.deployed is None}
    new_names = {candidate.model: candidate.deployed.name for candidate in candidates if candidate.deployed}
    planned, staying = [], []
    for model in in_force:
        if model.name in names:
            continue
        if model.model in refused:  # its version in force stays; its line is that of the refusal
            staying.append(model)
        elif prune:
            planned.append(_plan("removed", model).planned)
        else:
            staying.append(model)
            reason = "the file does not select it"
            if model.model in new_names:
                reason = f"model {model.model} is served as {new_names[model.model]} from now on"
            planned.append(_plan("kept", model, f"{reason}; --prune removes it").planned)
    return planned, staying


def compare_sets(before: Sequence[DeployedModel], after: Sequence[DeployedModel]) -> list[PlannedModel]:
    """What is done with each model to come from one set to another, ordered by name."""
    old, new = ({model.name: model for model in models} for models in (before, after))
    planned = []
    for name in sorted(old | new):
        if name not in new:
            planned.append(_plan("removed", old[name]).planned)
        elif name not in old:
            planned.append(_plan("new", new[name]).planned)
        elif old[name] == new[name]:
            planned.append(_plan("unchanged", new[name]).planned)
        else:
            changes = _describe_changes(old[name], new[name])
            planned.append(_plan("changed", new[name], changes).planned)
    return planned


def _plan(action: Action, model: DeployedModel, what: str = "") -> Candidate:
    planned = PlannedModel(model.name, action, model.version, model.needs.python, what)
    return Candidate(planned, model.model, model)


def _refuse(name: str, model: str, version: int | None, error: HeadraceError) -> Candidate:
    return Candidate(PlannedModel(name, "refused", version, None, _one_line(error)), model)


def _one_line(error: HeadraceError) -> str:
    """The error in a line: `where: what. Remedy`."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join([*(f"{line.rstrip('.')}." for line in lines[:-1]), lines[-1]])


def _describe_changes(before: DeployedModel, after: DeployedModel) -> str:
    """What differs, such as `version 1 → 2; num_replicas 1 → 2`. Values of variables are not told."""
    changes = []
    if before.model != after.model:
        changes.append(f"model {before.model} → {after.model}")
    if before.version != after.version:
        changes.append(f"version {before.version} → {after.version}")
    elif before.source != after.source:
        changes.append("version registered again")
    elif before.artifact != after.artifact:
        changes.append("files of its artefact")
    if before.needs.minor != after.needs.minor:
        changes.append(f"Python {before.needs.minor} → {after.needs.minor}")
    for field in ("num_replicas", "num_cpus", "memory", "autoscaling", "max_batch_size"):
        old, new = getattr(before.options, field), getattr(after.options, field)
        if old != new:
            changes.append(f"{field} {_tell(old)} → {_tell(new)}")
    if before.options.env_vars != after.options.env_vars:
        changes.append("env_vars")
    if before.timeout != after.timeout:
        changes.append(f"timeout {before.timeout:g} → {after.timeout:g} s")
    return "; ".join(changes)


def _tell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return ", ".join(f"{name} {number:g}" for name, number in msgspec.structs.asdict(value).items())
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
