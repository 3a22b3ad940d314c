"""Pointers: small committed JSON files that name the data that a project was last built from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headrace.kernel.errors import ProjectError
from headrace.kernel.files import write_file

__all__ = ["CODE", "FEATURES", "ONLINE", "Pointers", "pointer_text", "write_if_changed"]

CODE = "pointers/code.json"
FEATURES = "pointers/features.json"
ONLINE = "pointers/online.json"


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
        """The content of the file; None if there is no file.

        Raises:
            ProjectError: it is not a JSON object, for example after a merge conflict.
        """
        file = self._root / path
        try:
            content = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ProjectError(
                f"it is not JSON: {error}",
                where=str(file),
                remedy="Resolve its merge conflict, or delete it: the next build writes it again.",
            ) from error
        if not isinstance(content, dict):
            raise ProjectError(
                "it is not a JSON object", where=str(file), remedy="Delete it: the next build writes it again."
            )
        return content

    def write(self, path: str, value: dict[str, Any]) -> bool:
        """Writes the file in one step. Returns whether that changed it."""
        return write_if_changed(self._root / path, pointer_text(value))

    def remove(self, path: str) -> None:
        """Removes the file, if it is there."""
        (self._root / path).unlink(missing_ok=True)


def pointer_text(value: dict[str, Any]) -> bytes:
    """The text of a pointer. Keys keep their order, because tables are listed in the order of the build."""
    return json.dumps(value, indent=1).encode() + b"\n"


def write_if_changed(file: Path, text: bytes) -> bool:
    """Replaces the file in one step, unless it already has this text. Returns whether it did."""
    if file.is_file() and file.read_bytes() == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, text)
    return True
