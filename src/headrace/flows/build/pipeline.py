"""DVC: the stage graph as it reads it, what it finds changed, and what it records. Only here."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.utils.serialize import dump_yaml, load_yaml

from headrace.flows.build.pointers import CODE
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable

__all__ = ["Pipeline", "Recorded", "forget", "init", "recorded"]

logging.getLogger("dvc").setLevel(logging.ERROR)  # it tells of every file that it writes
_IGNORED = ".headrace\n__pycache__\n*.pyc\n"
# DVC itself writes this, but only where there is a git repository already.
_NOT_IN_GIT = "/config.local\n/tmp\n/cache\n"


def init(root: Path) -> None:
    """Makes the folder a DVC repository, within the git one around it if there is one.

    The git repository may be made later: what must not be committed is left out from the beginning, and
    that there is none is noted where it is not committed, until a build finds one.
    """
    git = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), None)
    is_new = not (root / ".dvc" / "config").is_file()
    with _told(root):
        if is_new:
            # `force` clears what a kill left of an earlier attempt.
            Repo.init(str(root), no_scm=git is None, subdir=git not in (None, root), force=True).close()
        _note_git(root, git is not None)
    if not (root / ".dvc" / ".gitignore").is_file():
        (root / ".dvc" / ".gitignore").write_text(_NOT_IN_GIT)
    if not is_new:
        return
    ignore = root / ".dvcignore"
    kept = ignore.read_text() if ignore.is_file() else ""
    if ".headrace" not in kept.split():
        ignore.write_text(kept + _IGNORED)


def _note_git(root: Path, is_there: bool) -> None:
    config = Config(dvc_dir=str(root / ".dvc"), validate=False)
    if "no_scm" in config.read("repo").get("core", {}):
        with config.edit("repo") as committed:
            del committed["core"]["no_scm"]
    if is_there == ("no_scm" in config.read("local").get("core", {})):
        with config.edit("local") as own:
            if is_there:
                del own["core"]["no_scm"]
            else:
                own.setdefault("core", {})["no_scm"] = True


@dataclass(frozen=True)
class Recorded:
    """A stage as it last ran: file → MD5, and key of pointers/code.json → value."""

    files: dict[str, str]
    params: dict[str, Any]


class Pipeline:
    """The stages of a project's dvc.yaml.

    Raises:
        ProjectError: dvc.yaml or dvc.lock cannot be read.
        Unavailable: another DVC command holds its lock.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        os.environ.setdefault("DVC_NO_ANALYTICS", "1")
        with _told(root):
            self._repo = Repo(str(root))

    @contextmanager
    def held(self) -> Iterator[None]:
        """DVC's own lock: no other DVC command works on the project meanwhile."""
        with _told(self._root), self._repo.lock:
            try:
                yield
            finally:
                self._repo.close()

    def changed(self, name: str) -> bool:
        """Whether DVC would run the stage: its command, a dependency, a parameter or an output changed."""
        with _told(self._root):
            return bool(self._stage(name).changed())

    def restore(self, name: str) -> bool:
        """Takes the stage's files from DVC's cache where they alone differ from dvc.lock, as after a checkout
        of another commit. Returns whether nothing of the stage is changed any more.
        """
        with _told(self._root):
            stage = self._stage(name)
            if stage.changed_deps():
                return False
            stage.checkout(force=True, allow_missing=True)
            return not self._stage(name).changed()

    def record(self, name: str) -> None:
        """The stage has run: its dependencies and outputs, as they are now, go to dvc.lock."""
        with _told(self._root):
            stage = self._stage(name)
            stage.save(run_cache=False)
            stage.commit()
            stage.dump(update_pipeline=False)

    def _stage(self, name: str) -> Any:
        # Loaded anew each time: the stage before has written dvc.lock since.
        return self._repo.stage.load_one(str(self._root / "dvc.yaml"), name=name)


def recorded(root: Path) -> dict[str, Recorded]:
    """What dvc.lock says of each stage that has run."""
    file = root / "dvc.lock"
    if not file.is_file():
        return {}
    with _told(root):
        stages = load_yaml(str(file)).get("stages", {})
    return {
        name: Recorded(
            files={one["path"]: one["md5"] for one in (*stage.get("deps", ()), *stage.get("outs", ()))},
            params=dict(stage.get("params", {}).get(CODE, {})),
        )
        for name, stage in stages.items()
    }


def forget(root: Path, stage: str) -> None:
    """Takes a stage out of dvc.lock, as if it had never run; nothing happens where it is not there."""
    file = root / "dvc.lock"
    if not file.is_file():
        return
    with _told(root):
        lock = load_yaml(str(file))
        if lock.get("stages", {}).pop(stage, None) is not None:
            dump_yaml(str(file), lock)


@contextmanager
def _told(root: Path) -> Iterator[None]:
    """DVC's errors, as ours."""
    try:
        yield
    except HeadraceError:
        raise
    except LockError as error:
        raise Unavailable(
            "another DVC command works on this project", where=str(root), remedy="Wait for its end."
        ) from error
    except DvcException as error:
        raise ProjectError(
            f"DVC says: {error}",
            where=str(root / "dvc.yaml"),
            remedy="dvc.yaml is written by headrace build; delete dvc.lock if a merge left it broken.",
        ) from error
