"""release and rollback: divide a model's traffic among its versions, and restore the previous division.

The record on the topic decides: replicas follow it, and the registry's aliases are set from it.
"""

from __future__ import annotations

import getpass
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import msgspec

from headrace.features.plan import decode_plan
from headrace.flows.models.aliases import aliases_of
from headrace.flows.models.endpoint import await_release
from headrace.kernel import faults
from headrace.kernel.errors import CallError, HeadraceError, Refused
from headrace.kernel.properties import GATE
from headrace.kernel.run import Dataset, current_run, record_with, run
from headrace.projects.running import find_up
from headrace.serving import release as releases
from headrace.serving.release import Arm, Release
from headrace.serving.trial import try_release
from headrace.training.files import PLAN, REPORT
from headrace.workspace import Workspace

__all__ = ["check_model", "parse_arm", "put_in_force", "release", "rollback", "set_aliases", "try_arms"]

_logger = logging.getLogger(__name__)
_ARM = re.compile(r"(?P<name>[a-z][a-z0-9_-]*)=(?P<version>[1-9][0-9]*)(:(?P<share>[0-9.]+))?")
_ROWS_TRIED = 20  # of each version


def parse_arm(text: str) -> tuple[str, int, float | None]:
    """Name, version and share of `champion=3`, `challenger=4:0.1` or `shadow=5`.

    Raises:
        CallError: the text is not a valid arm.
    """
    match = _ARM.fullmatch(text)
    if match is None:
        raise CallError(
            f"{text!r} is not a valid arm",
            remedy="Write ARM=VERSION or ARM=VERSION:SHARE, such as challenger=4:0.1",
        )
    try:
        share = None if match["share"] is None else float(match["share"])
    except ValueError:
        share = math.nan
    if share is not None and not 0 < share <= 1:
        raise CallError(f"{match['share']!r} is not a valid share", where=text, remedy="0 < share ≤ 1.")
    if share is not None and _is_shadow(match["name"]):
        raise CallError("a shadow has no share: it gets a copy of every request", where=text)
    return match["name"], int(match["version"]), share


def _is_shadow(arm: str) -> bool:
    return arm == "shadow" or arm.startswith("shadow-")


def release(
    workspace: Workspace,
    model: str,
    arms: Sequence[str],
    *,
    by: str | None = None,
    why: str = "",
    override: bool = False,
) -> Release:
    """Puts a release with these arms in force, after a trial of every version on rows of its training set.

    If the project's `up` runs, this returns when the endpoint has activated the release.

    Args:
        workspace: the project to work on.
        model: the model's name.
        arms: `champion=3`, `challenger=4:0.1`, `shadow=5`, `shadow-copy=3`, ... Without a champion the
            present one stays. The champion gets the rest of the traffic, unless it has a share.
        by: who releases; by default the user of this process.
        why: the reason.
        override: whether a version that the gate refused may get traffic.

    Raises:
        CallError: an arm is not valid, the model or a version does not exist, there is no champion, or the
            shares do not add up to 1.
        Refused: the gate refused a version that would get traffic, or a version failed its trial: nothing is
            recorded. Or the arms leave the present champion, and another release was put in force meanwhile. Or
            the running endpoint cannot activate the release.
        Unavailable: the registry, the log or the online store cannot be reached, or a view has no values yet.
    """
    parsed, follows = _parse_arms(workspace, model, arms)
    new = releases.make(model, parsed, by=by or getpass.getuser(), why=why, override=override, follows=follows)
    try_arms(workspace, new)
    return put_in_force(workspace, new)


def try_arms(workspace: Workspace, new: Release) -> None:
    """Tries every version of a release on rows of its training set. Nothing is recorded.

    Raises:
        CallError, Refused, Unavailable: as `release`.
    """
    for arm in new.arms:
        _check_version(workspace, new.model, arm, new.override)
    versions = {arm.version for arm in new.arms}
    try_release(workspace.settings, new, {n: _read_instances(workspace, new.model, n) for n in versions})


def rollback(workspace: Workspace, model: str, *, by: str | None = None, why: str = "") -> Release:
    """Puts the previous release in force again.

    Raises:
        CallError: the model does not exist or has no previous release.
        Refused, Unavailable: the running endpoint cannot activate it.
    """
    try:
        new = releases.make_rollback(workspace.log, model, by=by or getpass.getuser(), why=why or "rollback")
    except CallError:
        if releases.find_current(workspace.log, model) is None:
            check_model(workspace, model)
        raise
    return put_in_force(workspace, new)


def check_model(workspace: Workspace, model: str) -> None:
    """Checks that the model exists: it has a version, or the project declares it.

    Raises:
        CallError: it does not; the error lists the models.
    """
    if not workspace.registry.versions(model):
        workspace.whole_project.model(model)


def _parse_arms(workspace: Workspace, model: str, texts: Sequence[str]) -> tuple[list[Arm], str | None]:
    """The arms, the champion first. If the texts name no champion, the present one is added, and the id of the
    present release is returned, too: the new one follows it."""
    parsed, follows = [parse_arm(text) for text in texts], None
    if not parsed:
        raise CallError("no arm is named", remedy="Name one, such as champion=3")
    if not any(name == "champion" for name, _, _ in parsed):
        current = releases.find_current(workspace.log, model)
        if current is None:
            check_model(workspace, model)
            raise CallError(
                f"model {model!r} has no champion yet", remedy=f"Name one: headrace release {model} champion=1"
            )
        parsed.insert(0, ("champion", releases.champion_version(current), None))
        follows = current.id
    shares = []
    for name, version, share in parsed:
        if name == "champion" or _is_shadow(name):
            continue
        if share is None:
            remedy = f"Write it as {name}={version}:0.1"
            if name == "canary":
                remedy += f", or give its steps: {name}={version} --steps 1%,5%,25%,100%"
            raise CallError(f"arm {name!r} beside the champion needs a share", remedy=remedy)
        shares.append(share)
    rest = 1 - math.fsum(shares)
    arms = []
    for name, version, share in sorted(parsed, key=lambda arm: arm[0] != "champion"):
        if _is_shadow(name):
            arms.append(Arm(version, 0.0, shadow=True, name=name))
        else:
            arms.append(Arm(version, rest if share is None else share, name=name))
    return arms, follows


def _check_version(workspace: Workspace, model: str, arm: Arm, override: bool) -> None:
    """Checks that the version exists and, if it would get traffic, that the gate did not refuse it."""
    registry = workspace.registry
    try:
        version = registry.version(model, arm.version)
    except CallError:
        check_model(workspace, model)
        raise
    if version.tags.get(GATE) == "refused" and not arm.shadow and not override:
        raise Refused(
            f"the gate refused version {arm.version} of model {model!r}",
            where=f"arm {arm.name!r}",
            remedy="Release it as a shadow, or nevertheless with --override and --why.",
        )


def _read_instances(workspace: Workspace, model: str, version: int) -> list[dict[str, Any]]:
    """Instances from rows of the version's training set; empty if this lake does not have these rows."""
    from headrace.training.report import TrainingSet  # it loads Polars, which a rollback does without

    bundle = workspace.registry.bundle(model, version)
    plan = decode_plan((bundle / PLAN).read_bytes())
    record = msgspec.json.decode((bundle / REPORT).read_bytes())
    training_set = msgspec.convert(record.get("training_set"), TrainingSet | None)
    if training_set is None:
        return []
    names = [*(key.join_key for key in plan.entities), *(field.name for field in plan.request)]
    try:
        rows = workspace.lake.table(training_set.table).scan(training_set.snapshot)
        return rows.select(names).drop_nulls().head(_ROWS_TRIED).collect().to_dicts()
    except CallError:  # the version comes from another lake, or its rows have expired
        return []


def _endpoint_facts(new: Release, metrics: dict[str, dict[str, float]]) -> dict[str, Any]:
    """For lineage: the versions of the arms, and the metrics of the arm with the greatest share."""
    main = max(new.arms, key=lambda arm: arm.weight)
    versions = {arm.name: str(arm.version) for arm in new.arms}
    return {
        "version": str(main.version),
        "versions": versions,
        "metrics": metrics[main.name],
        "release": new.id,
    }


@contextmanager
def _record(workspace: Workspace) -> Iterator[None]:
    """Records the runs of the block in the lineage store, unless they are part of a build, which does so."""
    if current_run() is not None:
        yield
        return
    with workspace.lineage.recorder() as recorder, record_with(recorder):
        yield


def set_aliases(workspace: Workspace, release: Release) -> None:
    """Makes the registry's aliases name the versions of a release."""
    for alias, version in aliases_of(release).items():
        if version is None:
            workspace.registry.delete_alias(release.model, alias)
        else:
            workspace.registry.set_alias(release.model, alias, version)


def _set_present_aliases(workspace: Workspace, new: Release) -> None:
    """Makes the aliases name the versions of the release in force: of two processes that release at once, the
    one that is slower must not set those of a release that the other has replaced."""
    present = new
    while True:
        set_aliases(workspace, present)
        before, present = present, releases.find_current(workspace.log, new.model) or present
        if present.id == before.id:
            return


def _update_registry(workspace: Workspace, new: Release) -> dict[str, dict[str, float]]:
    """Sets the aliases. Returns the metrics of each arm, as the registry has them."""
    try:
        _set_present_aliases(workspace, new)
        return {arm.name: workspace.registry.version(new.model, arm.version).metrics for arm in new.arms}
    except HeadraceError as error:
        _logger.warning(
            "release %s of %s is in force, but its aliases could not be set: %s. headrace status shows them",
            new.id,
            new.model,
            error.what,
        )
        return {arm.name: {} for arm in new.arms}


def put_in_force(workspace: Workspace, new: Release) -> Release:
    """Records the release, sets the aliases, and waits for the endpoint if it runs.

    If the registry fails after the record, that is only logged: who ran a rollback again because of it would go
    back one release more.

    Raises:
        Refused: the release that it follows is no longer in force, or the running endpoint cannot activate it.
        Unavailable: the running endpoint cannot activate it.
    """
    reads = [Dataset("model", f"{new.model}@{arm.version}") for arm in new.arms]
    writes = [Dataset("endpoint", new.model)]
    with _record(workspace), run(f"release {new.model}", reads=reads, writes=writes) as job:
        faults.reach("release.before_record")
        partition, offset = releases.append(workspace.log, new)
        faults.reach("release.after_record")
        metrics = _update_registry(workspace, new)
        faults.reach("release.after_aliases")
        for arm in new.arms:
            job.add_input(Dataset("model", f"{new.model}@{arm.version}", facts={"metrics": metrics[arm.name]}))
        job.add_output(Dataset("endpoint", new.model, facts=_endpoint_facts(new, metrics)))
        job.add_facts(partition=partition, offset=offset)
        job.add_facts(release=new.id, by=new.by, why=new.why, override=new.override)
    up = find_up(workspace.settings)
    if up is not None:
        records = releases.history(workspace.log, new.model)
        earlier = {record.id for record in takewhile(lambda record: record.id != new.id, records)}
        await_release(workspace.settings, up, new, earlier)
    return new
