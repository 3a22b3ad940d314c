"""Release: how one model's traffic is divided, as a record on topic `headrace.releases`.

The topic is the history: the last record of a model is in force, and rollback reads the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import isclose
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from headrace.declare.event import event
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.kernel.time import now
from headrace.log.follow import TopicFollower

if TYPE_CHECKING:
    from headrace.log import Log

__all__ = [
    "TOPIC",
    "Arm",
    "Release",
    "Releases",
    "append",
    "champion",
    "current",
    "going_back",
    "history",
    "make",
    "previous",
    "rollback",
]

TOPIC = "headrace.releases"


class Arm(Struct, frozen=True):
    """One version's share of a model's traffic.

    Attributes:
        version: the model's version.
        weight: its share of the customers, 0 to 1. A shadow arm has none: it gets a copy of every
            request, and its answers are only logged.
        shadow: whether it answers nobody.
        name: what the arm is called: `champion`, `challenger`, `shadow`, ...
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
        model: whose traffic.
        arms: the champion first; the weights of those that answer add up to 1.
        by: who made it: a person, or a flow.
        why: the reason, in words.
        override: whether it was made although the gate refused a version of it.
        at: when it was made.
        restores: the id of the release whose arms it brings back, where it is a rollback.
    """

    id: str
    model: str
    arms: list[Arm]
    by: str
    why: str
    override: bool
    at: datetime
    restores: str | None = None


def make(
    model: str, arms: Sequence[Arm], *, by: str, why: str, override: bool = False, restores: str | None = None
) -> Release:
    """A release of now, checked.

    Raises:
        CallError: no arm, two arms of one name, a weight outside 0..1, or weights that do not add up
            to 1.
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
    plain = [arm if not arm.shadow else msgspec.structs.replace(arm, weight=0.0) for arm in arms]
    return Release(new_id(), model, plain, by, why, override, now(), restores)


def append(log: Log, release: Release) -> tuple[int, int]:
    """Puts the release in force. Durable on return: (log partition, offset) of its record."""
    log.create(TOPIC)
    return log.append(TOPIC, [msgspec.json.encode(release)], [release.model.encode()])[0]


def history(log: Log, model: str) -> list[Release]:
    """Every release of the model, oldest first."""
    return Releases(log).all(model)


def current(log: Log, model: str) -> Release | None:
    """The release in force, or None where the model was never released."""
    found = history(log, model)
    return found[-1] if found else None


def champion(release: Release) -> int:
    """The version that the alias `champion` stands for: the arm of that name, else the heaviest."""
    answering = [arm for arm in release.arms if not arm.shadow]
    named = [arm for arm in answering if arm.name == "champion"]
    return max(named or answering, key=lambda arm: arm.weight).version


def previous(releases: Sequence[Release]) -> Release | None:
    """The release that a rollback brings back; a rollback of a rollback goes one further back."""
    if not releases:
        return None
    place = _made_at(releases, len(releases) - 1)
    return releases[_made_at(releases, place - 1)] if place else None


def _made_at(releases: Sequence[Release], place: int) -> int:
    """Where the arms in force at `place` were first made: the release that a rollback restores."""
    places = {release.id: n for n, release in enumerate(releases)}
    while (restored := releases[place].restores) is not None and places.get(restored, place) < place:
        place = places[restored]
    return place


def going_back(log: Log, model: str, *, by: str, why: str) -> Release:
    """The release that puts the one before the present in force again; it is not appended yet.

    Raises:
        CallError: there is none before.
    """
    before = previous(history(log, model))
    if before is None:
        raise CallError(f"model {model!r} has no release to go back to")
    return make(model, before.arms, by=by, why=why, override=before.override, restores=before.id)


def rollback(log: Log, model: str, *, by: str, why: str) -> Release:
    """Puts the release before the present one in force again, as a new record.

    Raises:
        CallError: there is none before.
    """
    release = going_back(log, model, by=by, why=why)
    append(log, release)
    return release


class Releases:
    """Follows the topic: each `poll` reads what is new.

    Attributes:
        in_force: model → its last release, as of the last poll.
    """

    def __init__(self, log: Log) -> None:
        self._follower = TopicFollower(log, TOPIC, msgspec.json.Decoder(Release).decode)
        self.in_force: dict[str, Release] = {}

    def poll(self) -> list[Release]:
        """The releases appended since the last poll, oldest first."""
        releases = [record.value for record in self._follower.poll()]
        self.in_force.update((release.model, release) for release in releases)
        return releases

    def all(self, model: str) -> list[Release]:
        """The model's releases among those appended since the last poll, oldest first."""
        return [release for release in self.poll() if release.model == model]
