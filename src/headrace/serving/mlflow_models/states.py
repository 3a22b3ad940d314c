"""States of replicas: each writes what its model's process does into a file, which `status` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.files import write_file
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.kernel.process import is_alive, mark_of

__all__ = [
    "Problem",
    "ReplicaFolder",
    "ReplicaState",
    "make_replica_folder",
    "read_problems",
    "read_states",
    "write_problems",
]

_FILE = "state.json"
_PROBLEMS = "problems.json"
LOG = "model.log"


class ReplicaState(Struct, frozen=True):
    """What a replica of a model does.

    Attributes:
        name: the name in the model's paths.
        model, version: its registered name and the number of the version.
        python: the version of its Python.
        digest: the digest of the model's record.
        replica: the mark of the replica's process (kernel.process).
        pid: the id of the model's process.
        is_ready: whether it answers.
        restarts: how often it was started again.
        failure: why it ended last, or None.
        log: the file of its output.
    """

    name: str
    model: str
    version: int
    python: str
    digest: str
    replica: str
    pid: int
    is_ready: bool
    restarts: int
    failure: str | None
    log: str


class Problem(Struct, frozen=True):
    """Why Ray Serve cannot run a model.

    Attributes:
        what: the reason, in a line.
        has_failed: whether its start failed, so that Serve does not try again by itself.
        is_answered: whether a replica answers nevertheless, such as that of the version before.
    """

    what: str
    has_failed: bool
    is_answered: bool


class ReplicaFolder:
    """The folder of one replica, for its state and the log of its model's process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / LOG

    def write(self, state: ReplicaState) -> None:
        """Replaces the state."""
        write_file(self._folder / _FILE, msgspec.json.encode(state))

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def make_replica_folder(settings: Settings, name: str) -> ReplicaFolder:
    """Makes a folder for a replica of this process. Folders of replicas that have died are removed."""
    root = make_private(_root(settings) / name)
    for folder in root.iterdir():
        if not is_alive(folder.name.rpartition(" ")[0]):
            shutil.rmtree(folder, ignore_errors=True)
    return ReplicaFolder(make_private(root / f"{mark_of()} {new_id()}"))


def read_states(settings: Settings) -> Iterator[ReplicaState]:
    """The states of the replicas that run."""
    for file in sorted(_root(settings).glob(f"*/*/{_FILE}")):
        try:
            state = msgspec.json.decode(file.read_bytes(), type=ReplicaState)
        except (FileNotFoundError, msgspec.DecodeError):  # the replica ends just now
            continue
        if is_alive(state.replica):
            yield state


def write_problems(settings: Settings, set_id: str, problems: Mapping[str, Problem]) -> None:
    """Writes which models of a set Ray Serve cannot run, and why."""
    make_private(settings.place("serving"))
    write_file(settings.place("serving", _PROBLEMS), msgspec.json.encode({set_id: problems}))


def read_problems(settings: Settings, set_id: str) -> dict[str, Problem]:
    """Model → why Ray Serve cannot run it. Those of another set than this are out of date."""
    try:
        content = settings.place("serving", _PROBLEMS).read_bytes()
        return msgspec.json.decode(content, type=dict[str, dict[str, Problem]]).get(set_id, {})
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _root(settings: Settings) -> Path:
    return settings.place("serving", "replicas")
