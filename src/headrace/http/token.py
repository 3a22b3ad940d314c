"""Access control: the bearer token, and the Host headers that name this machine."""

from __future__ import annotations

import hmac
import ipaddress
import os

from headrace.kernel.errors import ProjectError

__all__ = ["TOKEN", "has_token", "is_local_host", "is_loopback", "token_for"]

TOKEN = "HEADRACE_TOKEN"  # noqa: S105 - the variable's name
_MIN_LENGTH = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str) -> str | None:
    """The token that a server on this address requires: HEADRACE_TOKEN; None on loopback if it is not set.

    Raises:
        ProjectError: the address is not loopback and the token is not set, or the token is too short or
            contains characters that a header cannot carry.
    """
    token = os.environ.get(TOKEN) or None
    if token is None:
        if is_loopback(host):
            return None
        raise ProjectError(
            f"other machines can connect to {host}, and the token is not set",
            where=TOKEN,
            remedy=f"Set {TOKEN} in the environment (openssl rand -hex 32 prints one), or host = '127.0.0.1'.",
        )
    if len(token) < _MIN_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise ProjectError(
            f"the token must be at least {_MIN_LENGTH} printable ASCII characters without spaces",
            where=TOKEN,
            remedy="openssl rand -hex 32 prints one.",
        )
    return token


def has_token(authorization: bytes | None, token: str) -> bool:
    """Whether an Authorization header has the token. The comparison takes the same time for every token."""
    scheme, _, credentials = (authorization or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(credentials.strip(), token.encode())


def is_local_host(host_header: bytes | None) -> bool:
    """Whether a Host header names this machine.

    After DNS rebinding, the requests of a foreign web page reach this machine, but under the page's host name.
    """
    text = (host_header or b"").decode("latin-1").lower()
    name = text.rpartition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name in ("localhost", "127.0.0.1", "[::1]")
