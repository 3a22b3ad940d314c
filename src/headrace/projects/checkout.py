"""The git checkout that a project lies in, if it lies in one."""

from __future__ import annotations

import subprocess

from headrace.code.source_files import LOCK_FILES
from headrace.config.settings import FILE, Settings

__all__ = ["commit_of"]

_SECONDS = 10.0


def commit_of(settings: Settings) -> str | None:
    """The commit that the project's code stands at, as 40 hexadecimal digits; with `-dirty` behind it
    where its package, headrace.toml or lock differ from that commit. Pointers and what a build writes
    do not count.

    None where the project is in no checkout, there is no commit yet, or no git.
    """
    commit = _git(settings, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changed = _git(settings, "status", "--porcelain", "--", settings.project, FILE, *LOCK_FILES)
    return f"{commit}-dirty" if changed or changed is None else commit


def _git(settings: Settings, *arguments: str) -> str | None:
    """What git says; None where it fails."""
    # No lock of git's is taken for a look, so that a commit beside a build never meets one.
    command = ["git", "--no-optional-locks", "-C", str(settings.root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
