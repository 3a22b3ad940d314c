"""Registers a trained version, and makes it champion if the gate passed or is overridden."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.flows.build.context import BuildContext
from headrace.flows.models.release import release
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.files import move_into_place, remove_path
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.private import make_private
from headrace.kernel.run import Dataset, run
from headrace.registry.source import write_source
from headrace.training.files import REPORT
from headrace.training.gate import GateResult
from headrace.training.report import TrainingReport, read_report
from headrace.training.training_set import keep_for_version

__all__ = ["VersionRelease", "release_version"]

_logger = logging.getLogger(__name__)


class VersionRelease(Struct, frozen=True):
    """A version that is champion.

    Attributes:
        version: its number.
        how: why it may be champion, in words.
        pointer: the content of pointers/release/MODEL.json.
    """

    version: int
    how: str
    pointer: dict[str, Any]


def release_version(context: BuildContext, name: str, folder: Path, *, stage: str) -> VersionRelease:
    """Registers the version whose bundle is in the folder, and makes it champion.

    Args:
        context: the context of the build.
        name: the name of the model.
        folder: the bundle.
        stage: the name of the stage that releases it, for the remedy.

    Raises:
        Refused: the gate refuses the version; the error lists the rules that it breaks.
    """
    model = context.project().model(name)
    report = read_report(folder)
    gate = report.gate
    version = _register(context, name, folder, report)
    if not gate.passed and context.override is None:
        raise Refused(
            f"the gate refuses version {version} of {name}:\n{_list_failures(gate)}",
            where=str(model.place),
            remedy=f"To release it nevertheless: headrace build {stage} --override WHY",
        )
    if context.champion(name) != version:
        why = "the gate passed" if gate.passed else str(context.override)
        arms = [f"champion={version}"]
        release(context.workspace, name, arms, by=context.by, why=why, override=not gate.passed)
    how = "it passed the gate" if gate.passed else f"by override ({context.override})"
    how += "".join(f"; {note}" for note in gate.notes)
    return VersionRelease(version, how, {"model": name, "version": version, "gate": msgspec.to_builtins(gate)})


def _register(context: BuildContext, name: str, folder: Path, report: TrainingReport) -> int:
    """Registers the version and returns its number. The same training and gate always give the same version."""
    rows = report.training_set
    sealed = _seal(context.settings, name, folder, report)
    inputs = [
        Dataset("model", f"{name}@{report.run}"),
        Dataset("table", rows.table, SnapshotPosition(rows.table, rows.snapshot)),
    ]
    with run(f"register {name}", inputs, writes=[Dataset("model", name)]) as registration:
        registry = registries.open(context.settings)
        version = registry.register(
            name, sealed, metrics=report.metrics, params=report.parameters, tags=report.tags
        )
        try:
            keep_for_version(context.lake, rows, version)
        except CallError as error:  # the version works all the same, but its rows may expire
            _logger.warning("version %d of %s is not tied to its training set: %s", version, name, error)
        facts = {"metrics": report.metrics, "params": report.parameters}
        registration.add_output(Dataset("model", f"{name}@{version}", facts=facts))
    return version


def _seal(settings: Settings, name: str, folder: Path, report: TrainingReport) -> Path:
    """Copies the bundle with the project's source to a folder that no later training overwrites."""
    place = settings.place("release", name)
    sealed = place / f"{report.run}-{short_digest((folder / REPORT).read_text())}"
    if not sealed.is_dir():
        for older in place.glob("*"):
            remove_path(older)
        draft = make_private(place) / f".{sealed.name}"
        shutil.copytree(folder, draft)
        write_source(settings, draft / "source.tar.gz")
        move_into_place(draft, sealed)
    return sealed


def _list_failures(gate: GateResult) -> str:
    return "\n".join(
        f"  {result.rule}: it is {result.value:.4f}, "
        + (result.note if result.bound is None else f"the bound {result.bound:.4f}")
        for result in gate.failed
    )
