"""Digests of what code declares to read besides its arguments: files and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from headrace.kernel.digest import digest_file, digest_value

__all__ = ["ExternalDigests", "external_digests"]


class ExternalDigests(Struct, frozen=True):
    """Digests of what code reads besides its arguments.

    Attributes:
        files: path → digest of the file; "" if it does not exist.
        env: environment variable → digest of its value; "" if it is not set.
    """

    files: dict[str, str]
    env: dict[str, str]


def external_digests(root: Path, files: Iterable[str] = (), env: Iterable[str] = ()) -> ExternalDigests:
    """The present digests.

    Args:
        root: the folder that the paths are relative to.
        files: the paths of the files.
        env: the names of the environment variables.
    """
    paths = {path: root / path for path in sorted(set(files))}
    return ExternalDigests(
        files={path: digest_file(file) if file.is_file() else "" for path, file in paths.items()},
        env={name: digest_value(os.environ[name]) if name in os.environ else "" for name in sorted(set(env))},
    )
