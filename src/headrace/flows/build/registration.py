"""Registers a trained version and, where the gate or an override lets it, makes it champion."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.flows.build.context import BuildContext
from headrace.flows.models.release import release
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.files import move_into_place
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.private import make_private
from headrace.kernel.properties import GATE
from headrace.kernel.run import Dataset, run
from headrace.registry.source import write_source
from headrace.training.gate import Verdict, judge
from headrace.training.job import REPORT, Report
from headrace.training.training_set import keep_for

__all__ = ["VersionRelease", "release_version"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionRelease:
    """A version that is champion.

    Attributes:
        version: its number.
        how: why it may be, in words.
        pointer: what pointers/release/MODEL.json is to hold.
    """

    version: int
    how: str
    pointer: dict[str, Any]


def release_version(context: BuildContext, name: str, folder: Path) -> VersionRelease:
    """Registers the version whose bundle lies in the folder, and makes it champion.

    Raises:
        Refused: the gate refuses it; the rules that it breaks are listed.
    """
    model = context.project().model(name)
    report = msgspec.json.decode((folder / REPORT).read_bytes(), type=Report)
    verdict = judge(model.gate, report.test.metrics, report.champion, lacking=report.champion_lacks)
    version = _register(context, name, folder, report, verdict)
    if not verdict.passed and context.override is None:
        raise Refused(
            f"the gate refuses version {version} of {name}:\n{_list_failures(verdict)}",
            where=str(model.place),
            remedy=f"Release it all the same: headrace build release-{name} --override WHY",
        )
    if context.champion(name) != version:
        why = "the gate passed" if verdict.passed else str(context.override)
        arms = [f"champion={version}"]
        release(context.settings, name, arms, by=context.by, why=why, override=not verdict.passed)
    how = "it passed the gate" if verdict.passed else f"by override ({context.override})"
    how += "".join(f"; {note}" for note in verdict.notes)
    return VersionRelease(
        version, how, {"model": name, "version": version, "gate": msgspec.to_builtins(verdict)}
    )


def _register(context: BuildContext, name: str, folder: Path, report: Report, verdict: Verdict) -> int:
    """The version's number. The same training is one version, however often it is registered."""
    rows = report.training_set
    tags = {**report.tags, GATE: "passed" if verdict.passed else "refused"}
    metrics = {**report.test.metrics, "base_rate": report.test.base_rate}
    params = {**report.parameters, "rounds": report.rounds}
    sealed = _seal(context.settings, name, folder, report)
    inputs = [
        Dataset("model", f"{name}@{report.run}"),
        Dataset("table", rows.table, SnapshotPosition(rows.table, rows.snapshot)),
    ]
    with run(f"register {name}", inputs) as registration:
        registry = registries.open(context.settings)
        version = registry.register(name, sealed, metrics=metrics, params=params, tags=tags)
        try:
            keep_for(context.lake, rows, version)
        except CallError as error:  # the version is as good without, but its rows cannot be read again
            _logger.warning("version %d of %s is not tied to its training set: %s", version, name, error)
        registration.output(Dataset("model", f"{name}@{version}"))
    return version


def _seal(settings: Settings, name: str, folder: Path, report: Report) -> Path:
    """A copy of the bundle with the project's source, which no later training overwrites."""
    place = settings.place("release", name)
    sealed = place / report.run
    if not sealed.is_dir():
        for older in place.glob("*"):
            shutil.rmtree(older)
        draft = make_private(place) / f".{report.run}"
        shutil.copytree(folder, draft)
        write_source(settings, draft / "source.tar.gz")
        move_into_place(draft, sealed)
    return sealed


def _list_failures(verdict: Verdict) -> str:
    return "\n".join(
        f"  {result.rule}: it is {result.value:.4f}, "
        + (result.note if result.bound is None else f"the bound {result.bound:.4f}")
        for result in verdict.failed
    )
