"""Who may come in: the bearer token and the names by which a door may be addressed."""

from __future__ import annotations

import hmac
import ipaddress
import os

from headrace.kernel.errors import ProjectError

__all__ = ["TOKEN", "has_token", "is_local_host", "is_loopback", "token_for"]

TOKEN = "HEADRACE_TOKEN"  # noqa: S105 - the variable's name
_SHORTEST = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str) -> str | None:
    """The token that a door on this host asks for: HEADRACE_TOKEN, or None on loopback without one.

    Raises:
        ProjectError: the host is not loopback and there is no token, or the token is too short or
            holds what a header cannot.
    """
    token = os.environ.get(TOKEN) or None
    if token is None:
        if is_loopback(host):
            return None
        raise ProjectError(
            f"a door on {host} is open to other machines, and there is no token",
            where=TOKEN,
            remedy=f"Set {TOKEN} in the environment (openssl rand -hex 32 makes one), or host = '127.0.0.1'.",
        )
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ProjectError(
            f"the token must be at least {_SHORTEST} printable ASCII characters without spaces",
            where=TOKEN,
            remedy="openssl rand -hex 32 makes one.",
        )
    return token


def has_token(authorization: bytes | None, token: str) -> bool:
    """Whether an Authorization header holds the token; takes as long for a near miss as for a far one."""
    scheme, _, given = (authorization or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def is_local_host(host_header: bytes | None) -> bool:
    """Whether a Host header names this machine. A page whose name was made to point here
    (DNS rebinding) sends its own name, and is refused."""
    text = (host_header or b"").decode("latin-1").lower()
    name = text.rpartition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]
    return name in ("localhost", "127.0.0.1", "[::1]")
