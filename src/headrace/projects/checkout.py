"""The git commit of a project's code, if the project is in a git checkout."""

from __future__ import annotations

import subprocess

from headrace.code.source_files import LOCK_FILES
from headrace.config.settings import FILE, Settings

__all__ = ["commit_of"]

_SECONDS = 10.0


def commit_of(settings: Settings) -> str | None:
    """The commit of the project's code: 40 hexadecimal digits, and `-dirty` if the code differs from it.

    The code is the package, headrace.toml and the lock file; pointers and other files that a build writes do
    not count. None: the project is not in a git checkout, has no commit yet, or git is not installed.
    """
    commit = _git(settings, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changes = _git(settings, "status", "--porcelain", "--", settings.project, FILE, *LOCK_FILES)
    return f"{commit}-dirty" if changes or changes is None else commit


def _git(settings: Settings, *arguments: str) -> str | None:
    """Runs git, and returns its output; None if it fails."""
    # Without optional locks, so that a user's commit during a build is never blocked by a lock file.
    command = ["git", "--no-optional-locks", "-C", str(settings.root), *arguments]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() if completed.returncode == 0 else None
