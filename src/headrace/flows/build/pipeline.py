"""DVC's repository: finds the changed stages and records their results. DVC takes 0.3 s to import."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from dvc.config import Config
from dvc.dvcfile import load_file
from dvc.fs import localfs
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLockFileCorruptedError, RWLockFileFormatError, rwlock

from headrace.flows.build.dvc_lock import record_stage, translate_errors
from headrace.kernel.files import write_file
from headrace.projects.checkout import find_git

__all__ = ["Pipeline", "init"]

_log = logging.getLogger(__name__)
logging.getLogger("dvc").setLevel(logging.ERROR)  # it reports every file that it writes
_IGNORED = ".headrace\n__pycache__\n*.pyc\n"
# DVC writes this itself, but only if there is a git repository already.
_NOT_IN_GIT = "/config.local\n/tmp\n/cache\n"


def init(root: Path) -> None:
    """Makes the folder a DVC repository, in the git repository around it if there is one.

    The git repository may be made later. So files that must not be committed are ignored from the beginning,
    and DVC's setting `no_scm` is kept in a file that is not committed, until a build finds git.
    """
    git = find_git(root)
    is_new = not (root / ".dvc" / "config").is_file()
    with translate_errors(root):
        if is_new:
            # `force` removes what a killed attempt left behind.
            Repo.init(str(root), no_scm=git is None, subdir=git not in (None, root), force=True).close()
        _configure_git(root, git is not None)
    if not (root / ".dvc" / ".gitignore").is_file():
        write_file(root / ".dvc" / ".gitignore", _NOT_IN_GIT)
    if not is_new:
        return
    ignore = root / ".dvcignore"
    text = ignore.read_text() if ignore.is_file() else ""
    if ".headrace" not in text.split():
        write_file(ignore, text + _IGNORED)


def _configure_git(root: Path, has_git: bool) -> None:
    config = Config(dvc_dir=str(root / ".dvc"), validate=False)
    if "no_scm" in config.read("repo").get("core", {}):
        with config.edit("repo") as committed:
            del committed["core"]["no_scm"]
    if has_git == ("no_scm" in config.read("local").get("core", {})):
        with config.edit("local") as local:
            if has_git:
                del local["core"]["no_scm"]
            else:
                local.setdefault("core", {})["no_scm"] = True


class Pipeline:
    """The stages of a project's dvc.yaml.

    Raises:
        ProjectError: dvc.yaml or dvc.lock cannot be read.
        Unavailable: another DVC command holds DVC's lock.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        os.environ.setdefault("DVC_NO_ANALYTICS", "1")
        with translate_errors(root):
            self._repo = Repo(str(root))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds DVC's own lock during the block, so that no other DVC command runs on the project."""
        with translate_errors(self._root), self._repo.lock:
            try:
                self._remove_torn_rwlock()
                yield
            finally:
                self._repo.close()

    def _remove_torn_rwlock(self) -> None:
        """Removes DVC's list of files in use if it is not whole: DVC empties the file before it writes it, so a
        kill or a full disk leaves one that no command reads. No other command runs now."""
        has_links = self._repo.config["core"].get("hardlink_lock", False)
        try:
            with rwlock(self._repo.tmp_dir, localfs, "headrace build", [], [], has_links):
                pass  # it reads the whole file
        except (RWLockFileCorruptedError, RWLockFileFormatError, UnicodeDecodeError):
            file = Path(self._repo.tmp_dir) / RWLOCK_FILE
            file.unlink()
            _log.warning("removed %s, which a killed command or a full disk had left incomplete", file)

    def is_changed(self, name: str) -> bool:
        """Whether DVC would run the stage: its command, a dependency, a parameter or an output changed."""
        with translate_errors(self._root):
            return bool(self._stage(name).changed())

    def restore(self, name: str) -> bool:
        """Restores the stage's files from DVC's cache if only they differ from dvc.lock, as after a checkout of
        another commit. Returns whether the stage is then unchanged.
        """
        with translate_errors(self._root):
            stage = self._stage(name)
            if stage.changed_deps():
                return False
            stage.checkout(force=True, allow_missing=True)
            return not self._stage(name).changed()

    def record(self, name: str) -> None:
        """Records in dvc.lock that the stage has run, with its present dependencies and outputs."""
        with translate_errors(self._root):
            stage = self._stage(name)
            stage.save(run_cache=False)
            stage.commit()
            record_stage(self._root, stage)

    def _stage(self, name: str) -> Any:
        return self._stages[name]

    @cached_property
    def _stages(self) -> Mapping[str, Any]:
        """The stages as dvc.yaml and dvc.lock have them. DVC reads both in pure Python, 20 ms a stage and more:
        so once. Each look-up makes DVC's stage anew; a stage's record changes only when it has run."""
        stages: Mapping[str, Any] = load_file(self._repo, str(self._root / "dvc.yaml")).stages
        return stages
