"""Digests: SHA-256 in full to check contents, and its first 32 digits as a name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["digest_bytes", "digest_file", "digest_value", "short_digest"]

_SHORT = 32  # hexadecimal digits: 128 bits, so a collision within a project is practically impossible


def digest_bytes(content: bytes) -> str:
    """The SHA-256 of the bytes: 64 hexadecimal digits, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 of the file's bytes: 64 hexadecimal digits. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(content: bytes | str) -> str:
    """A name for a content: the first 32 hexadecimal digits of its SHA-256. Text is encoded as UTF-8."""
    return digest_bytes(content.encode() if isinstance(content, str) else content)[:_SHORT]


def digest_value(value: Any) -> str:
    """A name for a JSON-ready value: 32 hexadecimal digits, independent of the order of keys.

    Raises:
        TypeError: the value is not JSON-ready.
    """
    return short_digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
