"""Reads the git repository that a project is in: the commit of its code, and the commits of its tags."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from msgspec import Struct

from headrace.code.source_files import LOCK_FILES, PARAMS_FILE
from headrace.config.settings import FILE, Settings
from headrace.kernel.errors import ProjectError
from headrace.kernel.secrets import clean_text

__all__ = ["Checkout", "commit_of", "find_checkout", "find_git", "find_revision", "resolve_revision"]

_SECONDS = 60.0  # that git may take: its answer decides what a build does, and a disk may be busy
_MOST_TAGS = 10  # that an error lists


class Checkout(Struct, frozen=True):
    """A git checkout.

    Attributes:
        commit: 40 hexadecimal digits.
        path: the project's folder within the repository, with a slash at its end; empty at its root.
        remote: the address of the remote `origin` without secrets, or None.
        root: the repository's folder.
    """

    commit: str
    path: str
    remote: str | None
    root: Path


def find_git(folder: Path) -> Path | None:
    """The git repository that a folder is in, also one without a commit; None if there is none."""
    return next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)


def find_checkout(folder: Path) -> Checkout | None:
    """Finds the checkout that a folder is in; None without a checkout, a commit or git."""
    lines = (_git(folder, "rev-parse", "HEAD", "--show-toplevel", "--show-prefix") or "").split("\n")
    if len(lines) < 2 or not lines[0]:
        return None
    remote = _clean_remote(_git(folder, "config", "--get", "remote.origin.url") or "") or None
    return Checkout(lines[0], lines[2] if len(lines) > 2 else "", remote, Path(lines[1]))


def _clean_remote(address: str) -> str:
    """The address without who may read it: a token may stand alone, as in https://TOKEN@github.com/team/repo."""
    return re.sub(r"^(https?://)[^/]*@", r"\1", clean_text(address))


def commit_of(settings: Settings) -> str | None:
    """The commit of the project's code: 40 hexadecimal digits, and `-dirty` if the code differs from it.

    The code is the package, headrace.toml, params.yaml and the lock file; pointers and other files that a build
    writes do not count. None: the project is not in a git checkout, has no commit yet, or git is not installed.
    """
    commit = _git(settings.root, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    code = (settings.project, FILE, PARAMS_FILE, *LOCK_FILES)
    changes = _git(settings.root, "status", "--porcelain", "--", *code)
    return f"{commit}-dirty" if changes or changes is None else commit


def find_revision(folder: Path, revision: str) -> str | None:
    """The commit of a revision (see resolve_revision), or None if there is none."""
    name = f"{revision}^{{commit}}"
    return _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", name) or None


def resolve_revision(folder: Path, revision: str, where: str) -> str:
    """The commit of a tag, a branch or another git revision: 40 hexadecimal digits.

    Args:
        folder: a folder in the repository.
        revision: the tag or revision.
        where: what names it, for errors.

    Raises:
        ProjectError: the repository has no such revision (the error lists its tags), or there is no repository.
    """
    commit = find_revision(folder, revision)
    if commit is not None:
        return commit
    tags = _git(folder, "tag", "--list", "--sort=-creatordate")
    if tags is None:
        raise ProjectError(
            f"revision {revision!r} needs git, and the project is not in a git repository",
            where=where,
            remedy=f"git init, commit the data, and name the commit: git tag {revision}",
        )
    names = tags.split()
    more = f" and {len(names) - _MOST_TAGS} more" if len(names) > _MOST_TAGS else ""
    listed = f"The tags are {', '.join(names[:_MOST_TAGS])}{more}." if names else "The repository has no tags."
    raise ProjectError(
        f"the git repository has no revision {revision!r}",
        where=where,
        remedy=f"{listed} A clone without tags gets them by git fetch --tags.",
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """Runs git, and returns its output; None if it fails."""
    # Without optional locks, so that a user's commit during a build is never blocked by a lock file.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
