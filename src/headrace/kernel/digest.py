"""Digests: SHA-256, whole where contents are checked, its first 32 digits where something is named by it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["digest_bytes", "digest_file", "digest_value", "short_digest"]

_SHORT = 32  # hexadecimal digits: 128 bits, which no two things of a project share by chance


def digest_bytes(content: bytes) -> str:
    """The SHA-256 of the bytes: 64 hexadecimal digits, as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 of the file's bytes: 64 hexadecimal digits. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(content: bytes | str) -> str:
    """The name of a content: the first 32 hexadecimal digits of its SHA-256. Text is taken as UTF-8."""
    return digest_bytes(content.encode() if isinstance(content, str) else content)[:_SHORT]


def digest_value(value: Any) -> str:
    """The name of a JSON-ready value; the order of keys does not count. 32 hexadecimal digits.

    Raises:
        TypeError: the value is not JSON-ready.
    """
    return short_digest(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
