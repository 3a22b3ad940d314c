"""Aliases: those that a release sets in the registry, and where registry and releases differ."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.serving import release as releases
from headrace.serving.release import Release
from headrace.workspace import Workspace

__all__ = ["ChampionMismatch", "MovedAlias", "aliases_of", "find_champion_mismatches", "find_moved_aliases"]


class MovedAlias(Struct, frozen=True):
    """An alias in the registry that does not name the version of the release in force.

    Attributes:
        model, alias: which alias.
        current: the version that it names; None: it was deleted.
        released: the version of the release in force; None: the release has no such arm.
    """

    model: str
    alias: str
    current: int | None
    released: int | None


class ChampionMismatch(Struct, frozen=True):
    """A champion that is not the version in the project's pointer file.

    Attributes:
        model: the model's name.
        champion: the version in force.
        built: the version in the pointer file, which the last build of this commit released.
    """

    model: str
    champion: int
    built: int


def aliases_of(release: Release) -> dict[str, int | None]:
    """Alias → the version of the release that it names; None: the alias is to be deleted."""
    challenger = next((arm.version for arm in release.arms if arm.name == "challenger"), None)
    return {"champion": releases.champion_version(release), "challenger": challenger}


def find_moved_aliases(workspace: Workspace, in_force: Iterable[Release]) -> list[MovedAlias]:
    """The aliases that do not name the versions of the releases in force.

    Raises:
        Unavailable: the registry cannot be reached.
    """
    registry = workspace.registry
    moved = []
    for release in sorted(in_force, key=lambda release: release.model):
        for alias, released in aliases_of(release).items():
            version = registry.alias(release.model, alias)
            if version != released:
                moved.append(MovedAlias(release.model, alias, version, released))
    return moved


def find_champion_mismatches(settings: Settings, in_force: Iterable[Release]) -> list[ChampionMismatch]:
    """The champions that are not the versions in the pointer files.

    They differ after `git checkout` of another commit, which moves no traffic, and after a release by hand.
    """
    pointers = Pointers(settings.root)
    mismatches = []
    for release in in_force:
        pointer, champion = (
            pointers.read(Pointers.path("release", release.model)),
            releases.champion_version(release),
        )
        if pointer is not None and champion != pointer["version"]:
            mismatches.append(ChampionMismatch(release.model, champion, int(pointer["version"])))
    return mismatches
