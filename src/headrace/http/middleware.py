"""Middleware that checks every request before the application receives it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from headrace.http.asgi import (
    IS_COMPLETE,
    App,
    Disconnected,
    Message,
    Receive,
    Scope,
    Send,
    find_header,
    read_body,
)
from headrace.http.responses import HttpError, error_body, send_error, to_http_error
from headrace.http.token import AccessTokens, is_local_host, is_loopback

__all__ = ["MAX_BODY", "GuardMiddleware"]

_log = logging.getLogger("headrace.http")
MAX_BODY = 16 * 1024 * 1024
_SMALL_BODY = 64 * 1024  # bytes of a body that does not count as large
_LARGE_BODIES = 16  # of the largest size, which a server holds at once
_MAX_DISCARDED = 64 * 1024 * 1024  # bytes that are read of a refused request
_JSON = frozenset({b"application/json", b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})
_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii"})


def _no_types(_scope: Scope) -> frozenset[bytes]:
    return frozenset()


def _encode_error(_scope: Scope, error: HttpError) -> bytes:
    return error_body(error)


class _HeldBodies:
    """The bytes of the large bodies that a server holds: that arrive, or whose requests are in progress."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0

    def reserve(self, more: int) -> None:
        """Raises HttpError 429 if there is no room for so many more bytes."""
        if self.size + more > self._limit:
            message = "The server holds too many large bodies; try again in a moment."
            raise HttpError(429, "busy", message, headers={"Retry-After": "1"}, close=True)
        self.size += more


class _HeldBody:
    """The bytes of one request's body, if it is large."""

    __slots__ = ("_all", "_size")

    def __init__(self, bodies: _HeldBodies) -> None:
        self._all, self._size = bodies, 0

    def grow(self, size: int) -> None:
        """Notes that the body has so many bytes. Raises HttpError 429, and holds none, if there is no room."""
        if size > _SMALL_BODY:
            try:
                self._all.reserve(size - self._size)
            except HttpError:
                self.release()
                raise
            self._size = size

    def release(self) -> None:
        self._all.size -= self._size
        self._size = 0


class GuardMiddleware:
    """Checks requests, reads their bodies within a time limit, and turns errors into JSON responses.

    It checks the Host header (on loopback), the token, the content type and the size.

    Args:
        app: the application.
        host: the address that the server listens on.
        token_files: files with the tokens that are accepted beside HEADRACE_TOKEN (http.token.AccessTokens).
        max_body: the most bytes of a body; a larger body is answered with 413. Bodies of more than 64 KiB may
            have sixteen times as many together, while they arrive and until they are answered; one more is
            answered with 429. So clients that send much and slowly do not use up the memory.
        body_seconds: how long a body may take to arrive; after that the answer is 408.
        content_types: the allowed types of a body, which must be UTF-8 and not compressed; others are answered
            with 415. The default, JSON, also excludes the forms that a foreign web page can send without CORS.
        more_types: the further types that a path allows. An empty one allows a body without a type, unless a
            web page sends it.
        open_paths: paths that need no token, such as `/healthz`.
        max_requests: how many requests may be in progress at once; more are answered with 503. A request counts
            once its body is complete, so that slow clients do not use up the limit.
        encode_error: the JSON body of an error.

    Raises:
        ProjectError: the address is not loopback and there is no token, or a token is not valid.
    """

    def __init__(
        self,
        app: App,
        host: str,
        *,
        token_files: Sequence[Path] = (),
        max_body: int = MAX_BODY,
        body_seconds: float = 30.0,
        content_types: frozenset[bytes] = _JSON,
        more_types: Callable[[Scope], frozenset[bytes]] = _no_types,
        open_paths: frozenset[str] = frozenset({"/healthz"}),
        max_requests: int = 1000,
        encode_error: Callable[[Scope, HttpError], bytes] = _encode_error,
    ) -> None:
        self._app = app
        self._loopback = is_loopback(host)
        self._tokens = AccessTokens(host, token_files)
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._content_types = content_types
        self._more_types = more_types
        self._open_paths = open_paths
        self._max_requests = max_requests
        self._encode_error = encode_error
        self._requests = 0  # in progress
        self._bodies = _HeldBodies(_LARGE_BODIES * max_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # the server answers 403
            return
        if scope["method"] == "HEAD":  # the response to GET; the server omits its body
            scope = {**scope, "method": "GET"}
        started = False
        body = _HeldBody(self._bodies)

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check(scope)
            content = await self._read_body(scope, receive, body)
            await self._call_app(scope, _replay(content, receive), send_and_note)
        except Disconnected:
            return
        except asyncio.CancelledError:  # the server ends, and has waited long enough for this request
            if not started:
                what = "The server ends, and the request was not answered in time; try again."
                error = HttpError(503, "unavailable", what, headers={"Retry-After": "1"})
                await self._refuse(scope, receive, send, error)
            raise
        except Exception as raised:
            response = to_http_error(raised)
            if response.status >= 500:
                trace = raised if response.code == "internal" else None
                _log.error("%s %s: %s", scope["method"], scope["path"], raised, exc_info=trace)
            if started:
                raise
            await self._refuse(scope, receive, send, response)
        finally:
            body.release()

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: HttpError) -> None:
        """Sends an error. The rest of the request is read first, if the connection is to be closed.

        If it were closed with unread data, TCP would reset it, and a client that sends the whole of its request
        before it reads would not get the response.
        """
        body = self._encode_error(scope, error)
        awaits_consent = find_header(scope, b"expect") is not None  # such a client does not send its body then
        is_late = error.status == 408  # it has had its time
        if not error.close or IS_COMPLETE in scope or awaits_consent or is_late:
            await send_error(send, error, body)
            return
        await send_error(send, error, body, is_last=False)
        with suppress(TimeoutError, Disconnected):
            await read_body(scope, receive, _MAX_DISCARDED, self._body_seconds, keep=False)
        await send({"type": "http.response.body", "body": b""})

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._requests >= self._max_requests:
            raise HttpError(503, "busy", "Too many requests are in progress.", headers={"Retry-After": "1"})
        self._requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._requests -= 1

    def _check(self, scope: Scope) -> None:
        if self._loopback and not is_local_host(find_header(scope, b"host")):
            what = "This server answers to localhost, 127.0.0.1 and [::1] only."
            raise HttpError(421, "host", what, close=True)
        codings = [value.strip().lower() for name, value in scope["headers"] if name == b"transfer-encoding"]
        if codings and codings != [b"chunked"]:  # the parser of HTTP undoes the chunks alone
            what = "The only transfer coding that this server takes is chunked."
            raise HttpError(400, "transfer_encoding", what, close=True)
        if scope["path"] not in self._open_paths and not self._is_authorized(scope):
            raise HttpError(
                401, "token", "A bearer token is needed.", headers={"WWW-Authenticate": "Bearer"}, close=True
            )
        if scope["method"] in ("POST", "PUT", "PATCH"):
            self._check_content(scope)

    def _check_content(self, scope: Scope) -> None:
        kind, *parameters = (find_header(scope, b"content-type") or b"").lower().split(b";")
        if kind.strip() not in self._content_types:
            self._check_further_type(scope, kind.strip())
        for parameter in parameters:
            name, _, value = parameter.partition(b"=")
            if name.strip() == b"charset" and value.strip(b' "') not in _CHARSETS:
                raise HttpError(415, "charset", "The body must be UTF-8.", close=True)
        if (find_header(scope, b"content-encoding") or b"identity").strip().lower() != b"identity":
            message, headers = "The body must not be compressed.", {"Accept-Encoding": "identity"}
            raise HttpError(415, "content_encoding", message, headers=headers, close=True)

    def _check_further_type(self, scope: Scope, kind: bytes) -> None:
        allowed = self._content_types | self._more_types(scope)
        # A web page can send a body without a type to any server, but its browser then adds the page's origin.
        if kind not in allowed or (not kind and find_header(scope, b"origin") is not None):
            known = ", ".join(sorted(allowed_kind.decode() for allowed_kind in allowed if allowed_kind))
            raise HttpError(415, "content_type", f"The content type must be one of {known}.", close=True)

    def _is_authorized(self, scope: Scope) -> bool:
        return not self._tokens.are_required or self._tokens.accept(find_header(scope, b"authorization"))

    async def _read_body(self, scope: Scope, receive: Receive, body: _HeldBody) -> bytes:
        length = find_header(scope, b"content-length")
        if length is not None and int(length) > self._max_body:  # the parser has checked that it is a number
            raise self._too_large()
        try:
            content = await read_body(scope, receive, self._max_body, self._body_seconds, reserve=body.grow)
        except TimeoutError:
            raise HttpError(408, "timeout", "The body did not arrive in time.", close=True) from None
        if content is None:
            raise self._too_large()
        return content

    def _too_large(self) -> HttpError:
        return HttpError(413, "too_large", f"A body may have {self._max_body} bytes at most.", close=True)


def _replay(content: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body in one message, then the server's own messages."""
    is_returned = False

    async def receive_body() -> Message:
        nonlocal is_returned
        if is_returned:
            return await receive()
        is_returned = True
        return {"type": "http.request", "body": content, "more_body": False}

    return receive_body
