"""Signed files: what this machine keeps of a bundle in another form, and trusts as it trusts the bundle."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from headrace.kernel.files import write_file
from headrace.kernel.private import make_private

__all__ = ["SignedFiles"]

_SIZE = 32  # bytes of a signature


class SignedFiles:
    """A folder of files that are read only if the key has signed them, with their names.

    Args:
        folder: created with mode 0700 when the first file is written.
        key: the signing key.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder, self._key = folder, key

    def read(self, name: str) -> bytes | None:
        """The content of the file; None: it cannot be read, or the key has not signed it.

        The file counts as used now (see `remove_unused`).
        """
        path = self._folder / name
        try:
            signed = path.read_bytes()
        except OSError:  # mostly because there is none
            return None
        content = signed[_SIZE:]
        if not hmac.compare_digest(signed[:_SIZE], self._sign(name, content)):
            return None
        with suppress(OSError):  # it was removed meanwhile, or belongs to another user
            os.utime(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Writes the file, or replaces it. Raises OSError."""
        make_private(self._folder)
        write_file(self._folder / name, self._sign(name, content) + content, mode=0o600)

    def remove_unused(self, keep: Container[str | None], seconds: float) -> None:
        """Removes the files that are not to be kept, and were not read or written for so many seconds.

        Another process may read, write or remove them at the same time: what it reads is whole or not there.

        Raises:
            OSError: the folder cannot be changed.
        """
        oldest = time.time() - seconds
        for path in self._folder.glob("[!.]*"):  # a draft of a file begins with a dot
            with suppress(FileNotFoundError):
                if path.name not in keep and path.stat().st_mtime < oldest:
                    path.unlink()

    def _sign(self, name: str, content: bytes) -> bytes:
        return hmac.digest(self._key, b"headrace file %b\0%b" % (name.encode(), content), "sha256")
