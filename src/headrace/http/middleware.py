"""The door: an ASGI wrapper that checks every request before the application sees it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.http.asgi import App, Disconnected, Message, Receive, Scope, Send, find_header, read_body
from headrace.http.responses import HttpError, send_error, to_http_error
from headrace.http.token import has_token, is_local_host, is_loopback, token_for

__all__ = ["MAX_BODY", "GuardMiddleware"]

_log = logging.getLogger("headrace.http")
MAX_BODY = 16 * 1024 * 1024
_JSON = frozenset({b"application/json", b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})
_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})


class GuardMiddleware:
    """Checks the Host header (on loopback), the token, the content type and the size of a request,
    reads its body whole within a time, and turns errors into JSON answers.

    Args:
        app: the application behind the door.
        host: the address it listens on.
        max_body: bytes; more is answered 413.
        body_seconds: how long a body may take to arrive; longer is answered 408.
        content_types: what a request with a body may carry, in UTF-8 and not compressed; anything else is
            answered 415. JSON alone also keeps out the plain forms that a foreign web page can send.
        open_paths: paths that need no token, such as `/healthz`.
        max_requests: how many requests may be answered at once; more get a 503. One counts from when its body
            is here: who sends slowly keeps nobody out.

    Raises:
        ProjectError: the host is not loopback and there is no token.
    """

    def __init__(
        self,
        app: App,
        host: str,
        *,
        max_body: int = MAX_BODY,
        body_seconds: float = 30.0,
        content_types: frozenset[bytes] = _JSON,
        open_paths: frozenset[str] = frozenset({"/healthz"}),
        max_requests: int = 1000,
    ) -> None:
        self._app = app
        self._loopback = is_loopback(host)
        self._token = token_for(host)
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._content_types = content_types
        self._open_paths = open_paths
        self._max_requests = max_requests
        self._requests = 0  # being answered now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # the server answers 403
            return
        if scope["method"] == "HEAD":  # what a GET answers; the server leaves the body out
            scope = {**scope, "method": "GET"}
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check(scope)
            content = await self._body(scope, receive)
            with self._counted():
                await self._app(scope, _replay(content, receive), noting_send)
        except Disconnected:
            return
        except Exception as error:
            answer = to_http_error(error)
            if answer.status >= 500:
                _log.error(
                    "%s %s: %s", scope["method"], scope["path"], error, exc_info=_unforeseen(answer, error)
                )
            if started:
                raise
            await send_error(send, answer)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._requests >= self._max_requests:
            raise HttpError(503, "busy", "Too many requests are being answered.", headers={"Retry-After": "1"})
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    def _check(self, scope: Scope) -> None:
        if self._loopback and not is_local_host(find_header(scope, b"host")):
            raise HttpError(421, "host", "This door answers to localhost, 127.0.0.1 and [::1] only.")
        if scope["path"] not in self._open_paths and not self._admitted(scope):
            raise HttpError(
                401, "token", "A bearer token is needed.", headers={"WWW-Authenticate": "Bearer"}, close=True
            )
        if scope["method"] in ("POST", "PUT", "PATCH"):
            self._check_content(scope)

    def _check_content(self, scope: Scope) -> None:
        kind, *parameters = (find_header(scope, b"content-type") or b"").lower().split(b";")
        if kind.strip() not in self._content_types:
            known = ", ".join(sorted(k.decode() for k in self._content_types))
            raise HttpError(415, "content_type", f"The content type must be one of {known}.", close=True)
        for parameter in parameters:
            name, _, value = parameter.partition(b"=")
            if name.strip() == b"charset" and value.strip(b' "') not in _CHARSETS:
                raise HttpError(415, "charset", "The body must be UTF-8.", close=True)
        if (find_header(scope, b"content-encoding") or b"identity").strip().lower() != b"identity":
            raise HttpError(
                415, "content_encoding", "The body must not be compressed.",
                headers={"Accept-Encoding": "identity"}, close=True,
            )  # fmt: skip

    def _admitted(self, scope: Scope) -> bool:
        return self._token is None or has_token(find_header(scope, b"authorization"), self._token)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        length = find_header(scope, b"content-length")
        if length is not None and int(length) > self._max_body:  # the parser has seen that it is a number
            raise self._too_large()
        try:
            content = await read_body(receive, self._max_body, self._body_seconds)
        except TimeoutError:
            raise HttpError(408, "timeout", "The body did not arrive in time.", close=True) from None
        if content is None:
            raise self._too_large()
        return content

    def _too_large(self) -> HttpError:
        return HttpError(413, "too_large", f"A body may have {self._max_body} bytes at most.", close=True)


def _unforeseen(answer: HttpError, error: Exception) -> Exception | None:
    return error if answer.code == "internal" else None


def _replay(content: bytes, receive: Receive) -> Receive:
    """A receive that gives the body in one piece, then whatever the server says."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return once
