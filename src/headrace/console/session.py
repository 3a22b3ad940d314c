"""The console's session: a browser cannot send a bearer token, so it signs in once and gets a cookie."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie

from headrace.http.asgi import App, Scope, find_header
from headrace.http.middleware import GuardMiddleware
from headrace.http.responses import HttpError
from headrace.http.token import has_token, token_for

__all__ = ["COOKIE", "ConsoleGuard", "session_of", "sign_in"]

COOKIE = "headrace_console"
_FORMS = frozenset({b"application/x-www-form-urlencoded"})


def session_of(token: str) -> str:
    """The value of the cookie for this token. The token cannot be computed from it."""
    return hmac.new(token.encode(), b"headrace console session", hashlib.sha256).hexdigest()


class ConsoleGuard(GuardMiddleware):
    """A guard that also accepts the console's cookie, and redirects a browser without one to /login."""

    def __init__(self, app: App, host: str) -> None:
        super().__init__(
            app,
            host,
            max_body=4096,
            content_types=_FORMS,
            open_paths=frozenset({"/healthz", "/login", "/style.css"}),
        )
        token = token_for(host)
        self._session = None if token is None else session_of(token)

    def _is_authorized(self, scope: Scope) -> bool:
        if super()._is_authorized(scope):
            return True
        assert self._session is not None
        cookie = _cookie(find_header(scope, b"cookie"))
        if hmac.compare_digest(cookie.encode(), self._session.encode()):
            return True
        if find_header(scope, b"authorization") is None and scope["method"] == "GET":
            raise HttpError(303, "token", "Sign in first.", headers={"Location": "/login"})
        return False


def sign_in(token: str, host: str) -> str | None:
    """The cookie for this host's token; None for a wrong token."""
    expected = token_for(host)
    if expected is None or not has_token(b"Bearer " + token.encode(), expected):
        return None
    return session_of(expected)


def _cookie(line: bytes | None) -> str:
    """The console's cookie in a Cookie header; empty if there is none."""
    try:
        morsel = SimpleCookie((line or b"").decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value
