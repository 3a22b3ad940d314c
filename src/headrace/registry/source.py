"""Writes the source archive of a bundle: the code, lock and pointers that a version was trained with.

It holds the files as they are, committed or not, so that a dirty tree can be reproduced too.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from headrace.code.source_files import LOCK_FILES
from headrace.config.settings import FILE, Settings
from headrace.kernel.secrets import clean_text

__all__ = ["write_source"]

_PROJECT = (FILE, "pyproject.toml", "README.md", "feature_store.yaml")
_DVC = ("dvc.yaml", "dvc.lock", "params.yaml", "*.dvc")
_ENVIRONMENT = (".python-version", "requirements*.txt", *LOCK_FILES)
_SECRET = (".env", ".env.*", "*.env", "*.key", "*.pem", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc")
_BUILT = ("__pycache__", "*.pyc", ".git", ".venv")


def write_source(settings: Settings, path: Path) -> None:
    """Writes the project's package, configuration, lock and pointers to a tar.gz.

    The same files give the same bytes: names are sorted; times, owners and modes are left out. The archive does
    not hold the state folder, links, files whose names suggest secrets, or the passwords in headrace.toml.
    """
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in sorted(set(_files(settings)), key=lambda path: path.as_posix()):
            content = file.read_bytes()
            if file == settings.root / FILE:  # an address in it may contain a password
                content = clean_text(content.decode()).encode()
            entry = tarfile.TarInfo(file.relative_to(settings.root).as_posix())
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))


def _files(settings: Settings) -> Iterator[Path]:
    for pattern in (*_PROJECT, *_DVC, *_ENVIRONMENT):
        yield from (path for path in settings.root.glob(pattern) if _is_kept(path))
    for name in (settings.project, "pointers"):
        for parent, folders, files in os.walk(settings.root / name, followlinks=False):
            here = Path(parent)
            folders[:] = [
                folder
                for folder in folders
                if not _matches(here / folder, _BUILT) and here / folder != settings.state
            ]
            yield from (here / file for file in files if _is_kept(here / file))


def _is_kept(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not _matches(path, (*_SECRET, *_BUILT))


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.match(pattern) for pattern in patterns)
