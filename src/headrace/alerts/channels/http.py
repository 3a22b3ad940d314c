"""Posts an alert to an HTTP address, for webhooks and similar channels.

It uses urllib, because httpx logs whole addresses, and an address may be a secret.
"""

from __future__ import annotations

import hmac
import os
import urllib.error
import urllib.request
from hashlib import sha256
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from headrace.alerts.channels.port import describe_error
from headrace.kernel.errors import Refused, Unavailable

__all__ = ["host_of", "post"]

_SECONDS = 10.0
_TRY_AGAIN = frozenset({401, 403, 404, 407, 408, 425, 429})  # the receiver's state is wrong, not the alert


def host_of(url: str) -> str | None:
    """The host of an http(s) address; None if the address is not valid."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts.hostname if is_valid and url.isprintable() and " " not in url else None


def post(url: str, body: bytes, alert_id: str, name: str) -> None:
    """Posts JSON, signed if the environment has HEADRACE_ALERTS_SECRET.

    The signature is the hex HMAC-SHA-256 of the body: `X-Headrace-Signature-256: sha256=...`.

    Args:
        url: an http(s) address.
        body: the JSON.
        alert_id: the id of the change, sent as the header `Idempotency-Key`.
        name: the channel's name, for errors.

    Raises:
        Unavailable: the receiver cannot be reached, or does not accept the alert now.
        Refused: the receiver answered that it will never accept this body.
    """
    headers = {"Content-Type": "application/json", "Idempotency-Key": alert_id, "User-Agent": "headrace"}
    secret = os.environ.get("HEADRACE_ALERTS_SECRET")
    if secret:
        headers["X-Headrace-Signature-256"] = f"sha256={hmac.new(secret.encode(), body, sha256).hexdigest()}"
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - host_of checks the scheme
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_SECONDS):
            return
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unavailable(f"it cannot be reached: {describe_error(reason)}", where=name) from None
    kind = Refused if 400 <= status < 500 and status not in _TRY_AGAIN else Unavailable
    raise kind(f"it answered {status}", where=name)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a redirected POST would arrive as a GET. A redirect counts as a failure."""

    def redirect_request(self, *_: Any) -> None:
        return None
