"""Place: the file and line of a declaration, for errors and for lineage."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """A file and a line in it."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @staticmethod
    def of(declared: Any) -> Place:
        """Where a class or function is written."""
        try:
            return Place(inspect.getsourcefile(declared) or "?", inspect.getsourcelines(declared)[1])
        except (OSError, TypeError):
            return Place(f"<{getattr(declared, '__module__', '?')}>", 0)

    @staticmethod
    def of_caller(depth: int = 2) -> Place:
        """Where the code stands that called the function that calls this one."""
        frame = sys._getframe(depth)
        return Place(frame.f_code.co_filename, frame.f_lineno)
