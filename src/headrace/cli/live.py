"""The line of a terminal that shows what is being done."""

from __future__ import annotations

import os
import sys

__all__ = ["show_live"]

_CLEAR = "\r\x1b[K"


def show_live(text: str) -> None:
    """Shows the text in place of the one before, or takes that away if the text is empty. It goes to standard
    error, and nowhere if that is not a terminal."""
    if sys.stderr.isatty():
        # A text that wrapped could not be taken away. Some terminals say that they have no width.
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write(f"{_CLEAR}{text[: width - 1]}")
        sys.stderr.flush()
