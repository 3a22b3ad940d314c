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


def write_problems(settings: Settings, problems: Mapping[str, str]) -> None:
    """Writes which models Ray Serve cannot run, and why."""
    make_private(settings.place("serving"))
    write_file(settings.place("serving", _PROBLEMS), msgspec.json.encode(problems))


def read_problems(settings: Settings) -> dict[str, str]:
    """Model → why Ray Serve cannot run it."""
    try:
        return msgspec.json.decode(settings.place("serving", _PROBLEMS).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _root(settings: Settings) -> Path:
    return settings.place("serving", "replicas")
