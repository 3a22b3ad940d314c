"""Pointers: small JSON files under pointers/, committed, that say which data a project now stands on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from headrace.kernel.errors import ProjectError

__all__ = ["CODE", "Pointers"]

CODE = "pointers/code.json"


class Pointers:
    """The pointer files of a project.

    Args:
        root: the project's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @staticmethod
    def path(kind: str, name: str) -> str:
        """The file of one pointer, relative to the project, with `/`."""
        return f"pointers/{kind}/{name}.json"

    def read(self, path: str) -> dict[str, Any] | None:
        """What the file holds, or None where there is none.

        Raises:
            ProjectError: it is not JSON (a merge left its marks?).
        """
        file = self._root / path
        try:
            held = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ProjectError(
                f"it is not JSON: {error}",
                where=str(file),
                remedy="Solve its merge conflict, or delete it: the next build makes it again.",
            ) from error
        if not isinstance(held, dict):
            raise ProjectError(
                "it is no pointer", where=str(file), remedy="Delete it; the next build makes it."
            )
        return held

    def write(self, path: str, value: dict[str, Any]) -> bool:
        """Writes it whole or not at all. Returns whether it differs from what was there."""
        text = json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
        return write_whole(self._root / path, text)

    def remove(self, path: str) -> None:
        """Takes the file away, if it is there."""
        (self._root / path).unlink(missing_ok=True)


def write_whole(file: Path, text: bytes) -> bool:
    """Replaces the file in one step, unless it holds this text already. Returns whether it did."""
    if file.is_file() and file.read_bytes() == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    with half.open("wb") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    half.replace(file)
    return True
