"""Place: the file and line of a declaration, for errors and for lineage."""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

import attrs

__all__ = ["Place", "calling_frame"]


@attrs.frozen
class Place:
    """A file and a line in it.

    Attributes:
        file: the path, as Python knows it.
        line: the line, from 1; 0: it is not known.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @staticmethod
    def of(declared: Any) -> Place:
        """Finds the place of a class or a function."""
        try:
            return Place(inspect.getsourcefile(declared) or "?", inspect.getsourcelines(declared)[1])
        except (OSError, TypeError):
            return Place(f"<{getattr(declared, '__module__', '?')}>", 0)

    @staticmethod
    def of_caller() -> Place:
        """Finds the line of the project that made the current call: the innermost line outside Headrace.

        Frames of attrs (`attrs.evolve`) and those without a module (the `__init__` it generates) are skipped.
        """
        frame = calling_frame()
        return Place(frame.f_code.co_filename, frame.f_lineno)


def calling_frame() -> FrameType:
    """The innermost frame outside Headrace (see Place.of_caller)."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_internal(frame.f_globals.get("__name__")):
        frame = frame.f_back
    return frame


def _is_internal(module: str | None) -> bool:
    return module is None or module.partition(".")[0] in (__name__.partition(".")[0], "attr")
