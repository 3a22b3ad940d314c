"""Secrets: masks them in texts and values before these reach a log, an error message or lineage."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["clean", "clean_text", "looks_secret", "mask_secrets", "process_secrets"]

_KEY = re.compile(
    r"passw(or)?d|passphrase|secret|credential|authorization|cookie|signature"
    r"|api_?key|access_?key|private_?key|ssl_key_pem|(^|_)(token|pwd|auth|sig)($|_)",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A match begins where a word begins: tried at each of its letters, one of 100,000 letters would take minutes.
# The greedy part before @ extends to the last @ before the path, because a password may contain an @.
_URL = re.compile(
    r"(?<![a-zA-Z0-9+.-])(?P<scheme>[a-zA-Z0-9+.-]+://)(?P<user>[^\s/:@?#'\"]*):(?P<password>[^\s/?#'\"]*)@"
)
_ASSIGNMENT = re.compile(r"(?<![\w.-])(?P<key>[\w.-]+)\s*[=:]\s*(?!//)['\"]?")
_VALUE = re.compile(r"[^\s&;,'\"]+")
_BEARER = re.compile(r"\b(?P<word>Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_HOOK = re.compile(r"(?P<host>(?:slack\+https?://[^\s/'\"]+|https?://hooks?\.[^\s/'\"]+)/)[^\s'\",]+")
_ORDINARY = ("PWD", "SSH_AUTH_SOCK")  # paths that a shell or an agent sets, which are not secrets
_OURS = "HEADRACE_"  # secrets under this prefix are masked however short they are
_SHORTEST = 6  # any other environment secret shorter than this is also an ordinary word
_DEEPEST = 32
_FILES = ("_FILE", "_FILES")
_read: set[str] = set()


@lru_cache(4096)
def looks_secret(key: str) -> bool:
    """Whether the value of this key is probably a secret: `password`, `apiKey`, `auth_token`."""
    return _KEY.search(_CAMEL.sub("_", key).replace("-", "_").replace(".", "_")) is not None


def mask_secrets(values: Iterable[str]) -> None:
    """Adds secrets that this process read to those that are masked, for as long as it runs."""
    _read.update(values)


def process_secrets() -> list[str]:
    """The values of the environment variables whose names look secret, and those of `mask_secrets`.

    The longest come first. A variable whose name ends in _FILE or _FILES names files.
    """
    values = [
        value
        for name, value in os.environ.items()
        if len(value) >= (1 if name.startswith(_OURS) else _SHORTEST)
        and looks_secret(name)
        and not name.endswith(_FILES)
        and name not in _ORDINARY
    ]
    return sorted([*values, *_read], key=len, reverse=True)  # one may be the beginning of another


def clean_text(text: str, known: Sequence[str] | None = None) -> str:
    """Masks passwords in addresses, paths of webhooks, `password=...` pairs, bearer tokens, and `known` secrets
    (default: those of the environment)."""
    if "://" in text:
        text = _URL.sub(lambda m: f"{m['scheme']}{m['user']}:***@", text)
        text = _HOOK.sub(lambda m: f"{m['host']}***", text)
    text = _BEARER.sub(lambda m: f"{m['word']} ***", text)
    if "=" in text or ":" in text:
        text = _clean_assignments(text)
    for value in process_secrets() if known is None else known:
        text = text.replace(value, "***")
    return text


def clean(value: Any, known: Sequence[str] | None = None, depth: int = 0) -> Any:
    """Removes secrets from a JSON-ready value: drops keys that look secret, and cleans texts.

    Nesting below 32 levels is cut off.
    """
    known = process_secrets() if known is None else known
    if isinstance(value, str):
        return clean_text(value, known)
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {str(k): clean(v, known, depth + 1) for k, v in value.items() if not looks_secret(str(k))}
    if isinstance(value, (list, tuple)):
        return [clean(item, known, depth + 1) for item in value]
    return value


def _clean_assignments(text: str) -> str:
    """Masks the values of keys that look secret, also of one that follows another: `error: password=x`."""
    parts, end = list[str](), 0
    for match in _ASSIGNMENT.finditer(text):
        key = match["key"].lstrip("0123456789_.-")  # the 26 of an encoded %26token= too
        if match.start() < end or not looks_secret(key):
            continue
        value = _VALUE.match(text, match.end())
        if value is None or value[0].startswith("***"):
            continue
        parts += [text[end : match.end()], "***"]
        end = value.end()
    return "".join([*parts, text[end:]])
