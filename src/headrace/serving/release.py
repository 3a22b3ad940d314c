"""Releases: how a model's traffic is divided among its versions, as records on topic `headrace.releases`.

The topic is the history: the last record of a model is in force, and a rollback restores the one before. A
record that names the release that it follows is void if another one was in force before it. Every reader sees
the same order, so all agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import isclose
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from headrace.declare.event import event
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.ids import new_id
from headrace.kernel.time import now
from headrace.log.follow import TopicFollower
from headrace.serving.canary import CanaryPlan
from headrace.serving.history import append_record, find_previous

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = [
    "TOPIC",
    "Arm",
    "Release",
    "ReleaseFollower",
    "append",
    "champion_version",
    "find_current",
    "find_restored",
    "history",
    "make",
    "make_rollback",
    "read_histories",
]

TOPIC = "headrace.releases"


class Arm(Struct, frozen=True):
    """One version's share of a model's traffic.

    Attributes:
        version: the model's version.
        weight: its share of the entities, 0 to 1; 0 for a shadow arm.
        shadow: whether the arm gets a copy of every request and its predictions are only logged.
        name: the arm's name, such as `champion`, `challenger` or `shadow`.
    """

    version: int
    weight: float = 1.0
    shadow: bool = False
    name: str = "champion"


@event(topic=TOPIC, time="at", key="model", identity=["id"], dedup_within="1d")
class Release(Struct, frozen=True):
    """How one model's traffic is divided from `at` on.

    Attributes:
        id: a UUIDv7.
        model: the model's name.
        arms: the champion first; the weights of those that answer add up to 1.
        by: the person or the flow that released.
        why: the reason.
        override: whether it was released although the gate refused a version of it.
        at: the time of the release.
        restores: for a rollback, the id of the release whose arms it restores.
        canary: the canary that this release is a step of; None: it is not.
        follows: the id of the release that this one was decided after. If another one is in force when it is
            appended, it is void. None: it replaces any.
    """

    id: str
    model: str
    arms: list[Arm]
    by: str
    why: str
    override: bool
    at: datetime
    restores: str | None = None
    canary: CanaryPlan | None = None
    follows: str | None = None


def make(
    model: str,
    arms: Sequence[Arm],
    *,
    by: str,
    why: str,
    override: bool = False,
    restores: str | None = None,
    canary: CanaryPlan | None = None,
    follows: str | None = None,
) -> Release:
    """Makes a release with the present time. It is not in force before `append`.

    Raises:
        CallError: no arm answers, two arms have the same name, a weight is outside 0..1, or the weights
            do not add up to 1.
    """
    where = f"release of {model!r}"
    if len({arm.name for arm in arms}) != len(arms):
        raise CallError("two arms have the same name", where=where)
    answering = [arm for arm in arms if not arm.shadow]
    if not answering:
        raise CallError(
            "no arm answers", where=where, remedy=f"Name a champion: headrace release {model} champion=1"
        )
    for arm in answering:
        if not 0 < arm.weight <= 1:
            raise CallError(
                f"arm {arm.name!r} has weight {arm.weight:g}", where=where, remedy="0 < weight ≤ 1."
            )
    total = sum(arm.weight for arm in answering)
    if not isclose(total, 1.0, abs_tol=1e-9):
        raise CallError(f"the arms' weights add up to {total:g}, not 1", where=where)
    weighted = [msgspec.structs.replace(arm, weight=0.0) if arm.shadow else arm for arm in arms]
    return Release(new_id(), model, weighted, by, why, override, now(), restores, canary, follows)


def append(log: Log, release: Release) -> tuple[int, int]:
    """Puts the release in force. Its record is durable on return.

    Returns:
        The log partition and the offset of the record.

    Raises:
        Refused: the release that it follows is no longer in force.
        Unavailable: it was not recorded, or that is not known (history.append_record).
    """
    position = append_record(log, TOPIC, release, release.model, f"release {release.id}")
    if release.follows is not None and release not in history(log, release.model):
        raise Refused(
            f"another release of model {release.model!r} was put in force meanwhile",
            remedy=f"headrace release {release.model} ... replaces it.",
        )
    return position


def history(log: Log, model: str) -> list[Release]:
    """Every release of the model that was in force, oldest first."""
    return read_histories(log).get(model, [])


def read_histories(log: Log) -> dict[str, list[Release]]:
    """Model → every release of it that was in force, oldest first."""
    follower = ReleaseFollower(log)
    follower.poll()
    return follower.histories


def find_current(log: Log, model: str) -> Release | None:
    """The release in force, or None if the model was never released."""
    releases = history(log, model)
    return releases[-1] if releases else None


def champion_version(release: Release) -> int:
    """The version of the arm `champion`; without such an arm, of the arm with the largest weight."""
    answering = [arm for arm in release.arms if not arm.shadow]
    champions = [arm for arm in answering if arm.name == "champion"]
    return max(champions or answering, key=lambda arm: arm.weight).version


def find_restored(records: Sequence[Release]) -> Release | None:
    """The release that a rollback would restore; None if there is none.

    The steps of a canary count as one release: a smaller share of a bad version would be no way back.

    Args:
        records: every release of one model, oldest first.
    """
    last_steps = {record.canary.id: record.id for record in records if record.canary is not None}
    return find_previous(
        [record for record in records if record.canary is None or last_steps[record.canary.id] == record.id]
    )


def make_rollback(log: Log, model: str, *, by: str, why: str) -> Release:
    """Makes a release with the arms of the release before the present one, or before the present canary.

    It is not in force before `append`. A rollback after a rollback restores the release before that.

    Raises:
        CallError: the model has no release before the present one.
    """
    target = find_restored(history(log, model))
    if target is None:
        raise CallError(
            f"model {model!r} has no earlier release to roll back to",
            remedy=f"headrace release {model} champion=N releases version N.",
        )
    return make(model, target.arms, by=by, why=why, override=target.override, restores=target.id)


class ReleaseFollower:
    """Follows the topic of the releases.

    Attributes:
        histories: model → every release of it that was in force, oldest first, as of the last poll.
    """

    def __init__(self, log: Log) -> None:
        self._follower = TopicFollower(log, TOPIC, msgspec.json.Decoder(Release).decode)
        self.histories: dict[str, list[Release]] = {}

    @property
    def in_force(self) -> dict[str, Release]:
        """Model → its last release, as of the last poll."""
        return {model: releases[-1] for model, releases in self.histories.items()}

    def poll(self) -> list[Release]:
        """The releases put in force since the last poll, oldest first."""
        releases = []
        for record in self._follower.poll():
            release, earlier = record.value, self.histories.setdefault(record.value.model, [])
            if release.follows is None or not earlier or release.follows == earlier[-1].id:
                earlier.append(release)
                releases.append(release)
        return releases
