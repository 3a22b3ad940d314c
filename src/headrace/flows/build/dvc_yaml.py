"""The file dvc.yaml: written by the build, never over one that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

from headrace.flows.build.pointers import write_if_changed
from headrace.kernel.errors import ProjectError

__all__ = ["HEADER", "check_dvc_yaml", "is_own_dvc_yaml", "write_dvc_yaml"]

HEADER = "# Written by `headrace build` from the project's declarations: edit those, not this file."
_FILE = "dvc.yaml"


def is_own_dvc_yaml(root: Path) -> bool:
    """Whether Headrace may replace or delete the file: it wrote it, or the file is empty or does not exist."""
    file = root / _FILE
    text = file.read_bytes().strip() if file.exists() else b""
    return not text or text.startswith(HEADER.encode())


def check_dvc_yaml(root: Path) -> None:
    """Checks that a build may write the file.

    Raises:
        ProjectError: somebody else wrote it.
    """
    if not is_own_dvc_yaml(root):
        raise ProjectError(
            "dvc.yaml was not written by Headrace, and a build would replace its stages",
            where=str(root / _FILE),
            remedy="Move it and its dvc.lock into another folder of the project, where DVC reads them too, and "
            "give each of its stages wdir: ..",
        )


def write_dvc_yaml(root: Path, stages: str) -> None:
    """Writes the file: the header, and the stages as YAML."""
    write_if_changed(root / _FILE, f"{HEADER}\n{stages}".encode())
