"""The console's session: a browser cannot send a bearer token, so it signs in once and gets a cookie."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from headrace.http.asgi import App, Scope, find_header
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import HttpError

__all__ = ["COOKIE", "ConsoleGuard", "session_of"]

COOKIE = "headrace_console"
_FORMS = frozenset({b"application/x-www-form-urlencoded"})


def session_of(token: str) -> str:
    """The value of the cookie for this token. The token cannot be computed from it."""
    return hmac.new(token.encode(), b"headrace console session", hashlib.sha256).hexdigest()


class ConsoleGuard(GuardMiddleware):
    """A guard that also accepts the console's cookie, and redirects a browser without one to /login."""

    def __init__(self, app: App, host: str, token_files: Sequence[Path] = ()) -> None:
        super().__init__(
            app,
            host,
            token_files=token_files,
            max_body=4096,
            content_types=_FORMS,
            open_paths=frozenset({"/healthz", "/login", "/style.css"}),
        )

    def _is_authorized(self, scope: Scope) -> bool:
        if super()._is_authorized(scope):
            return True
        cookie = _cookie(find_header(scope, b"cookie")).encode()
        matches = [
            hmac.compare_digest(cookie, session.encode()) for session in self._tokens.sessions(session_of)
        ]
        if any(matches):
            return True
        if find_header(scope, b"authorization") is None and scope["method"] == "GET":
            raise HttpError(303, "token", "Sign in first.", headers={"Location": "/login"})
        return False

    def sign_in(self, token: str) -> str | None:
        """The cookie for this token; None for a wrong token."""
        if not self._tokens.are_required or not self._tokens.accept(b"Bearer " + token.encode()):
            return None
        return session_of(token.strip())


def _cookie(line: bytes | None) -> str:
    """The console's cookie in a Cookie header; empty if there is none."""
    try:
        morsel = SimpleCookie((line or b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
