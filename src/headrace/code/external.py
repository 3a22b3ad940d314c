"""What code declares to read beside its arguments: files and environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headrace.kernel.digest import digest_file, digest_value

__all__ = ["ExternalDigests", "external_digests"]


@dataclass(frozen=True)
class ExternalDigests:
    """Digests of what code reads beside its arguments.

    Attributes:
        files: path → digest of the file; "" where it does not exist.
        env: environment variable → digest of its value; "" where it is not set.
    """

    files: dict[str, str]
    env: dict[str, str]


def external_digests(root: Path, files: Iterable[str] = (), env: Iterable[str] = ()) -> ExternalDigests:
    """The digests as they are now.

    Args:
        root: the folder that the paths are relative to.
        files: paths.
        env: names of environment variables.
    """
    paths = {path: root / path for path in sorted(set(files))}
    return ExternalDigests(
        files={path: digest_file(file) if file.is_file() else "" for path, file in paths.items()},
        env={name: digest_value(os.environ[name]) if name in os.environ else "" for name in sorted(set(env))},
    )
