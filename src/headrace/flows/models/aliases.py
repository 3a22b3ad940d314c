"""Aliases: what a release sets in the registry, and where registry and releases differ."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.serving import release as releases
from headrace.serving.release import Release

__all__ = ["MovedAlias", "OtherChampion", "aliases_of", "find_moved_aliases", "find_other_champions"]


class MovedAlias(Struct, frozen=True):
    """An alias that somebody moved by hand.

    Attributes:
        model, alias: which.
        version: the version it names now; None: it was deleted.
        released: the version that the release in force gives it; None: the release has no such arm.
    """

    model: str
    alias: str
    version: int | None
    released: int | None


class OtherChampion(Struct, frozen=True):
    """A champion that is another version than the project's pointer names.

    Attributes:
        model: which.
        champion: the version in force.
        built: the version that the pointer's build released.
    """

    model: str
    champion: int
    built: int


def aliases_of(release: Release) -> dict[str, int | None]:
    """The aliases that a release sets; None: it deletes the alias."""
    challenger = next((arm.version for arm in release.arms if arm.name == "challenger"), None)
    return {"champion": releases.champion(release), "challenger": challenger}


def find_moved_aliases(settings: Settings, in_force: Iterable[Release]) -> list[MovedAlias]:
    """The aliases that are not as the releases in force set them.

    Raises:
        Unavailable: the registry is away.
    """
    registry = registries.open(settings)
    moved = []
    for release in sorted(in_force, key=lambda release: release.model):
        for alias, released in aliases_of(release).items():
            version = registry.alias(release.model, alias)
            if version != released:
                moved.append(MovedAlias(release.model, alias, version, released))
    return moved


def find_other_champions(settings: Settings, in_force: Iterable[Release]) -> list[OtherChampion]:
    """The champions that are other versions than pointers/release/ names: after `git checkout` of another
    commit, which moves no traffic, or after a release by hand.
    """
    pointers = Pointers(settings.root)
    others = []
    for release in in_force:
        pointer = pointers.read(Pointers.path("release", release.model))
        if pointer is not None and releases.champion(release) != pointer["version"]:
            built = int(pointer["version"])
            others.append(OtherChampion(release.model, releases.champion(release), built))
    return others
