"""Code watch: detects that the project has newer code than this process, so that a new process takes over."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from headrace.declare.event import Contract
from headrace.events.contracts.description import describe_contract
from headrace.events.ingest.adoption import find_stored_contract
from headrace.features.offline.rowwise import codes_as_loaded, codes_of, is_of_other_code
from headrace.features.online import OnlineStore
from headrace.features.plan import StoredView, WindowedView
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.lake import Lake
from headrace.projects.loader import module_stamps
from headrace.projects.project import Project

__all__ = ["CodeWatch", "NewerCode"]

_INTERVAL = 2.0  # seconds between two checks


class NewerCode(Unavailable):
    """The project has newer code than this process: the work must continue in a new process."""

    exit_code = os.EX_TEMPFAIL


class CodeWatch:
    """Sets `stop` when the project has newer code that is already in use: a build has filled a view with it, or
    another ingest has given a table its contract. Checks every few seconds during its block.

    Args:
        project: the project as this process has loaded it.
        contracts: the contracts of the topics that are ingested here.
        lake, online: the lake and the online store of the project.
        stop: set when there is newer code.
    """

    def __init__(
        self,
        project: Project,
        contracts: Sequence[Contract],
        lake: Lake,
        online: OnlineStore,
        stop: threading.Event,
    ) -> None:
        self._project, self._lake, self._online, self._stop = project, lake, online, stop
        self._loaded = codes_as_loaded(project)
        self._contracts = contracts
        self._ended = threading.Event()
        self._newer: str | None = None
        self._thread = threading.Thread(target=self._run, name="code-watch", daemon=True)

    def __enter__(self) -> CodeWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raises NewerCode if there is newer code."""
        if self._newer is not None:
            raise NewerCode(self._newer)

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            try:
                # Without an edit a new process would load the same code and end for the same reason.
                is_edited = module_stamps(self._project.settings) != self._project.stamps
                self._newer = self._find_newer() if is_edited else None
            except (OSError, Unavailable, ProjectError):  # the next check tries again
                continue
            if self._newer is not None:
                self._stop.set()
                return

    def _find_newer(self) -> str | None:
        """What is newer, as a sentence; None if nothing is."""
        for view in self._online.views():
            if self._is_newer(view):
                return f"{view.table}() was edited and built: ingest restarts with the new code"
        for contract in self._contracts:
            stored = find_stored_contract(contract, self._lake)
            if stored is not None and stored["fingerprint"] != describe_contract(contract)["fingerprint"]:
                return f"the contract of topic {contract.topic} was edited: ingest restarts with it"
        return None

    def _is_newer(self, view: StoredView) -> bool:
        return (
            isinstance(view, WindowedView)
            and is_of_other_code(view, self._loaded)
            and not is_of_other_code(view, codes_of(self._project))
            and self._online.position(view) is not None
        )
