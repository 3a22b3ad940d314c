"""The files that a project is made of: its modules, its locks, and the data files of a source."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["LOCK_FILES", "PARAMS_FILE", "file_stamps", "list_files", "list_modules", "stamp"]

LOCK_FILES = ("uv.lock", "pylock.toml", "poetry.lock", "requirements.lock", "requirements.txt")
"""The files that lock the versions of a project's packages."""

PARAMS_FILE = "params.yaml"
"""The file of a project's parameters, as DVC names it."""


def list_modules(root: Path, package: str) -> dict[str, Path]:
    """Module name → file, for every module of a package in the folder `root`, sorted by path."""
    files = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def list_files(path: Path, glob: str = "*") -> list[Path]:
    """The file, or every file under the folder whose name matches, sorted. Names that begin with `.` or `_` are
    left out."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if fnmatchcase(file.name, glob)
        and file.is_file()
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    )


def stamp(file: Path) -> tuple[int, int]:
    """The size and the modification time (nanoseconds) of a file: cheap to read, and they reveal an edit."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def file_stamps(root: Path, paths: Iterable[str]) -> list[list[str | int]]:
    """Path, size and modification time of every file under the paths, which are relative to `root`."""
    return [
        [str(file.relative_to(root)), *stamp(file)]
        for path in sorted(paths)
        for file in list_files(root / path)
    ]
