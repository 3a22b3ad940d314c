"""Interpreters: finds a Python of a version on this machine, by itself.

uv cannot be asked: where pyenv's shims are first on the PATH, `uv venv --python 3.9` runs a shim, which fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from headrace.kernel.errors import Refused

__all__ = ["Interpreter", "child_environment", "find_interpreter"]

_SECONDS = 10.0  # that an interpreter may take to tell its version
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ASK = "import sys; print('.'.join(map(str, sys.version_info[:3])))"


class Interpreter(Struct, frozen=True):
    """A Python on this machine.

    Attributes:
        path: its program.
        version: its version, such as `3.9.18`.
    """

    path: Path
    version: str


def find_interpreter(python: str) -> Interpreter:
    """Finds a Python of the same minor version: the exact patch if there is one, else the newest.

    It looks at this process's own Python, the PATH, and the folders in which pyenv and uv install.

    Args:
        python: `3.9` or `3.9.18`.

    Raises:
        Refused: there is none.
    """
    minor = ".".join(python.split(".")[:2])
    interpreters: dict[str, Interpreter] = {}
    for path in _candidates(minor):
        version = _ask_version(path)
        if version is not None and version.startswith(f"{minor}."):
            interpreters.setdefault(version, Interpreter(path, version))
            if version == python:
                break
    if not interpreters:
        raise Refused(
            f"Python {minor} is not on this machine",
            remedy=f"Install it: uv python install {minor}, or pyenv install {minor}",
        )
    return interpreters.get(python) or interpreters[max(interpreters, key=_patch)]


def child_environment() -> dict[str, str]:
    """This process's environment without what would change another Python: PYTHON* and VIRTUAL_ENV."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"
    }


def _candidates(minor: str) -> Iterator[Path]:
    """Programs that may be a Python of this minor version; the most likely first."""
    name = f"python{minor}"
    if sys.version_info[:2] == tuple(map(int, minor.split("."))):
        yield Path(sys.base_prefix, "bin", name)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.access(Path(folder, name), os.X_OK):
            yield Path(folder, name)
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv", "versions")
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    for versions, pattern in ((pyenv, f"{minor}.*"), (uv, f"cpython-{minor}.*")):
        yield from (version / "bin" / name for version in versions.glob(pattern))


def _ask_version(path: Path) -> str | None:
    """The version that the program tells; None if it cannot be run, like a shim of pyenv."""
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            env=child_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = answer.stdout.strip()
    return version if answer.returncode == 0 and _VERSION.fullmatch(version) else None


def _patch(version: str) -> int:
    return int(version.split(".")[2])
