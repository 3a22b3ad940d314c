"""The key that signs bundles: from the environment, or made once for each project on a machine."""

from __future__ import annotations

import os
import secrets

from headrace.config.settings import Settings
from headrace.kernel.files import create_file

__all__ = ["VARIABLE", "signing_key"]

VARIABLE = "HEADRACE_SIGNING_KEY"


def signing_key(settings: Settings) -> bytes:
    """The key: `HEADRACE_SIGNING_KEY`, else `signing.key` in the state folder, made (0600) if it is missing."""
    key = os.environ.get(VARIABLE)
    if key:
        return key.encode()
    path = settings.place("signing.key")
    if not path.exists():
        settings.make_state()
        create_file(path, secrets.token_hex(32), mode=0o600)
    return path.read_bytes()
