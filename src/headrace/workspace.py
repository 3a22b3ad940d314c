"""The workspace: one project on one profile, with its log, lake and stores, each opened once."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings

if TYPE_CHECKING:
    from headrace.features.online import OnlineStore
    from headrace.lake import Lake, VisibleTables
    from headrace.lineage.store import Store
    from headrace.log import Log
    from headrace.projects.project import Project
    from headrace.registry.store import Registry

__all__ = ["Workspace"]


class Workspace:
    """The parts of a project that a command works on. A context manager: its end closes the opened parts.

    Each part is opened when it is first used, so that a command opens only what it needs. Threads may
    share a workspace as far as the parts themselves allow.

    Args:
        settings: the settings of the project, on one profile.

    Attributes:
        settings: the same.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stack = ExitStack()

    @property
    def project(self) -> Project:
        """What the project's files declare now, without features and models: those need Feast, which takes
        seconds to import.

        Raises:
            ProjectError: a declaration is wrong, or a module cannot be imported.
        """
        from headrace.projects.project import load_project

        return load_project(self.settings, without=("feast",))

    @property
    def whole_project(self) -> Project:
        """What the project's files declare now, features and models too. Raises ProjectError like `project`."""
        from headrace.projects.project import load_project

        return load_project(self.settings)

    @cached_property
    def log(self) -> Log:
        """The log. Raises Unavailable if it cannot be reached."""
        from headrace import log

        return self._stack.enter_context(closing(log.open(self.settings.log.url)))

    @cached_property
    def lake(self) -> Lake:
        """The lake. Raises Unavailable if the catalog cannot be reached."""
        from headrace import lake

        return lake.open(self.settings)

    @cached_property
    def visible(self) -> VisibleTables:
        """The lake's tables as readers see them: all at one moment, that of the first use.

        Raises:
            Unavailable: the catalog cannot be reached.
        """
        from headrace.lake import VisibleTables

        return VisibleTables(self.lake)

    @cached_property
    def online(self) -> OnlineStore:
        """The online store. Raises Unavailable if it cannot be reached."""
        from headrace.features import online

        return self._stack.enter_context(closing(online.open(self.settings)))

    @cached_property
    def registry(self) -> Registry:
        """The model registry, which connects when it is first used."""
        from headrace import registry

        return registry.open(self.settings)

    @cached_property
    def lineage(self) -> Store:
        """The lineage store."""
        from headrace import lineage

        return self._stack.enter_context(closing(lineage.open(self.settings)))

    def close(self) -> None:
        """Closes the opened parts. A part that is used afterwards is opened again."""
        for name in ("log", "lake", "visible", "online", "registry", "lineage"):
            self.__dict__.pop(name, None)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<workspace {self.settings.project} on {self.settings.profile_name}: {self.settings.root}>"
