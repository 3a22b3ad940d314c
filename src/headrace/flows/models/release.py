"""release: divides a model's traffic among its versions, and goes back.

The record on the topic is what counts: replicas follow it. The registry's aliases are set from it.
"""

from __future__ import annotations

import getpass
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace import lake
from headrace import log as logs
from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.features.plan import decode_plan
from headrace.flows.models.aliases import aliases_of
from headrace.flows.models.endpoint import await_release
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.properties import GATE
from headrace.kernel.run import Dataset, run
from headrace.log import Log
from headrace.projects.running import running
from headrace.registry import Registry
from headrace.serving import release as releases
from headrace.serving.release import Arm, Release
from headrace.serving.trial import try_release
from headrace.training.report import TrainingSet

__all__ = ["GATE", "parse_arm", "release", "rollback"]

"""The tag of a version that says what the gate said: `passed` or `refused`."""
_SPEC = re.compile(r"(?P<name>[a-z][a-z0-9_-]*)=(?P<version>[1-9][0-9]*)(:(?P<weight>[0-9.]+))?")


_ROWS_TRIED = 20  # of each version


class _TrainedOn(Struct):
    training_set: TrainingSet | None = None


def parse_arm(text: str) -> tuple[str, int, float | None]:
    """Name, version and weight of `champion=3`, `challenger=4:0.1` or `shadow=5`.

    Raises:
        CallError: the text is no arm.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise CallError(
            f"{text!r} is no arm", remedy="Write ARM=VERSION or ARM=VERSION:SHARE, such as challenger=4:0.1"
        )
    try:
        weight = None if found["weight"] is None else float(found["weight"])
    except ValueError:
        weight = math.nan
    if weight is not None and not 0 < weight <= 1:
        raise CallError(f"{found['weight']!r} is no share", where=text, remedy="0 < share ≤ 1.")
    if weight is not None and found["name"] == "shadow":
        raise CallError("a shadow has no share: it gets a copy of every request", where=text)
    return found["name"], int(found["version"]), weight


def release(
    settings: Settings,
    model: str,
    arms: Sequence[str],
    *,
    by: str | None = None,
    why: str = "",
    override: bool = False,
) -> Release:
    """Puts a release of these arms in force, once every version of it has been tried on real rows.

    Where the project's `up` runs, it returns when the endpoint answers by the release.

    Args:
        settings: of which project.
        model: whose traffic.
        arms: `champion=3`, `challenger=4:0.1`, `shadow=5`, ... Where no champion is named, the
            present one stays. The champion gets what the others leave, unless its share is given.
        by: who; default: the user of this process.
        why: the reason.
        override: whether a version that the gate refused may answer.

    Raises:
        CallError: an arm cannot be read, a version does not exist, there is no champion, or the
            shares do not add up to 1.
        Refused: the gate refused a version that would answer, or a version cannot answer: nothing is
            recorded then. Or the endpoint that runs cannot take the release up.
        Unavailable: the registry, the log or the online store is away, or a view holds no values yet.
    """
    log, registry = logs.open(settings.log_url), registries.open(settings)
    try:
        present = releases.current(log, model)
        found = _arms(model, arms, present)
        for arm in found:
            _check(registry, model, arm, override)
        made = releases.make(model, found, by=by or getpass.getuser(), why=why, override=override)
        versions = {arm.version for arm in made.arms}
        try_release(settings, made, {n: _real_requests(settings, registry, model, n) for n in versions})
        return _put(settings, log, registry, made)
    finally:
        log.close()


def rollback(settings: Settings, model: str, *, by: str | None = None, why: str = "") -> Release:
    """Puts the release before the present one in force again.

    Raises:
        CallError: there is none before.
        Refused, Unavailable: the endpoint that runs cannot take it up.
    """
    log, registry = logs.open(settings.log_url), registries.open(settings)
    try:
        made = releases.going_back(log, model, by=by or getpass.getuser(), why=why or "rollback")
        return _put(settings, log, registry, made)
    finally:
        log.close()


def _arms(model: str, texts: Sequence[str], present: Release | None) -> list[Arm]:
    named = [parse_arm(text) for text in texts]
    if not any(name == "champion" for name, _, _ in named):
        if present is None:
            raise CallError(
                f"model {model!r} has no champion yet", remedy=f"Name one: headrace release {model} champion=1"
            )
        named.insert(0, ("champion", releases.champion(present), None))
    others = [weight for name, _, weight in named if name not in ("champion", "shadow")]
    if any(weight is None for weight in others):
        raise CallError("an arm beside the champion needs a share", remedy="Write it as challenger=4:0.1")
    rest = 1 - math.fsum(weight for weight in others if weight is not None)
    arms = []
    for name, version, weight in sorted(named, key=lambda one: one[0] != "champion"):
        if name == "shadow":
            arms.append(Arm(version, 0.0, shadow=True, name=name))
        else:
            arms.append(Arm(version, rest if weight is None else weight, name=name))
    return arms


def _check(registry: Registry, model: str, arm: Arm, override: bool) -> None:
    """The version exists, and where it would answer, the gate did not refuse it."""
    version = registry.version(model, arm.version)
    if version.tags.get(GATE) == "refused" and not arm.shadow and not override:
        raise Refused(
            f"the gate refused version {arm.version} of model {model!r}",
            where=f"arm {arm.name!r}",
            remedy="Release it as a shadow, or all the same with --override and --why.",
        )


def _real_requests(settings: Settings, registry: Registry, model: str, version: int) -> list[dict[str, Any]]:
    """Requests made of rows that the version was trained on; none where this lake does not have them."""
    bundle = registry.bundle(model, version)
    plan = decode_plan((bundle / "plan.json").read_bytes())
    trained = msgspec.json.decode((bundle / "training.json").read_bytes(), type=_TrainedOn).training_set
    if trained is None:
        return []
    names = [*(key.join_key for key in plan.entities), *(field.name for field in plan.request)]
    try:
        rows = lake.open(settings).table(trained.table).scan(trained.snapshot)
        return rows.select(names).drop_nulls().head(_ROWS_TRIED).collect().to_dicts()
    except CallError:  # the version comes from another lake, or its rows have expired
        return []


def _put(settings: Settings, log: Log, registry: Registry, made: Release) -> Release:
    with run(f"release {made.model}") as this:
        partition, offset = releases.append(log, made)
        for alias, version in aliases_of(made).items():
            if version is None:
                registry.delete_alias(made.model, alias)
            else:
                registry.set_alias(made.model, alias, version)
        for arm in made.arms:
            this.input(Dataset("model", f"{made.model}@{arm.version}"))
        this.output(Dataset("topic", releases.TOPIC, facts={"partition": partition, "offset": offset}))
        this.output(Dataset("endpoint", made.model))
        this.fact(release=made.id, by=made.by, why=made.why, override=made.override)
    up = running(settings)
    if up is not None:
        await_release(up, made)
    return made
