"""The source archive of a bundle: the code, lock and pointers that a version was made with.

It is made from the files as they are, committed or not, so that a dirty tree reproduces too.
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

_AT_ROOT = (
    FILE, "dvc.yaml", "dvc.lock", "params.yaml", "pyproject.toml", ".python-version", "README.md",
    "requirements*.txt", *LOCK_FILES, "*.dvc", "feature_store.yaml",
)  # fmt: skip
_SECRET = (".env", ".env.*", "*.env", "*.key", "*.pem", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc")
_BUILT = ("__pycache__", "*.pyc", ".git", ".venv")


def write_source(settings: Settings, path: Path) -> None:
    """Writes the project's package, configuration, lock and pointers to a tar.gz.

    The same files give the same bytes: names sorted, no times, owners or modes of this machine. The
    state folder, links and files that are secrets by their name are left out, and so are passwords in
    headrace.toml.
    """
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for file in sorted(set(_files(settings)), key=lambda one: one.as_posix()):
            content = file.read_bytes()
            if file == settings.root / FILE:  # an address in it may hold a password
                content = clean_text(content.decode()).encode()
            entry = tarfile.TarInfo(file.relative_to(settings.root).as_posix())
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))


def _files(settings: Settings) -> Iterator[Path]:
    for pattern in _AT_ROOT:
        yield from (one for one in settings.root.glob(pattern) if _wanted(one))
    for name in (settings.project, "pointers"):
        for parent, folders, files in os.walk(settings.root / name, followlinks=False):
            here = Path(parent)
            folders[:] = [
                one for one in folders if not _named(here / one, _BUILT) and here / one != settings.state
            ]
            yield from (here / one for one in files if _wanted(here / one))


def _wanted(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and not _named(path, (*_SECRET, *_BUILT))


def _named(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.match(pattern) for pattern in patterns)
