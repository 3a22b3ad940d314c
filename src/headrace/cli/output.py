"""A file that a command writes because an option names it."""

from __future__ import annotations

from pathlib import Path

from headrace.kernel.errors import CallError

__all__ = ["prepare_output"]


def prepare_output(file: Path) -> Path:
    """Makes the file's folder, and returns the file's absolute path.

    Raises:
        CallError: it is a folder or a device, or its folder cannot be made.
    """
    if file.exists() and not file.is_file():
        raise CallError(f"{file} is not a plain file", remedy="Name a file.")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(f"{file} cannot be written: {error.strerror}", remedy="Name another file.") from error
    return file.resolve()
