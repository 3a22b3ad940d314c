"""Finds the git checkout that a project's code is in, for the source location of jobs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from msgspec import Struct

from headrace.kernel.secrets import clean_text

__all__ = ["Checkout", "find_checkout"]

_SECONDS = 10.0


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

    def fields(self) -> dict[str, str]:
        """The fields of OpenLineage's sourceCodeLocation facet."""
        fields = {"type": "git", "url": self._url(), "version": self.commit}
        if self.path:
            fields["path"] = self.path
        if self.remote is not None:
            fields["repoUrl"] = self.remote
        return fields

    def _url(self) -> str:
        if self.remote is None:
            return (self.root / self.path).as_uri()
        match = re.fullmatch(r"(?:\w+://)?(?:[^@/]*@)?([^:/]+)(?::\d+)?[:/](.+?)(?:\.git)?/?", self.remote)
        if match is None or self.remote.startswith(("/", "file:")):
            return (self.root / self.path).as_uri()
        return f"https://{match[1]}/{match[2]}/tree/{self.commit}/{self.path}".rstrip("/")


def find_checkout(folder: Path) -> Checkout | None:
    """Finds the checkout that a folder is in; None without a checkout, a commit or git."""
    lines = _git(folder, "rev-parse", "HEAD", "--show-toplevel", "--show-prefix").split("\n")
    if len(lines) < 2 or not lines[0]:
        return None
    remote = clean_text(_git(folder, "config", "--get", "remote.origin.url")) or None
    return Checkout(lines[0], lines[2] if len(lines) > 2 else "", remote, Path(lines[1]))


def _git(folder: Path, *arguments: str) -> str:
    """Runs git, and returns what it prints; nothing if it fails."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
