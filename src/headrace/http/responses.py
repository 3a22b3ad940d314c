"""Responses: a JSON body, or an error as `{"error": {"code", "message", "field"?, ...}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.http.asgi import Send
from headrace.kernel.errors import (
    CallError,
    Conflict,
    HeadraceError,
    ProjectError,
    Refused,
    TooLarge,
    Unavailable,
)

__all__ = ["HttpError", "error_body", "send_body", "send_error", "to_http_error"]

_encoder = msgspec.json.Encoder()
_STATUS: dict[type[HeadraceError], tuple[int, str]] = {
    CallError: (404, "not_found"),
    TooLarge: (413, "too_large"),
    Refused: (422, "refused"),
    Conflict: (409, "conflict"),
    Unavailable: (503, "unavailable"),
    ProjectError: (500, "project"),
}


class HttpError(Exception):
    """A response that reports an error.

    Args:
        status: the HTTP status.
        code: one word for programs, such as `too_large`.
        message: one sentence for people.
        field: the field of the request that it concerns.
        more: further members of the error's body.
        headers: further headers of the response, such as Retry-After.
        close: whether the connection is closed afterwards, since the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.more = dict(more or {})
        self.headers = dict(headers or {})
        self.close = close


def error_body(error: HttpError) -> bytes:
    """The JSON body of the error."""
    members = {"code": error.code, "message": error.message}
    if error.field is not None:
        members["field"] = error.field
    return _encoder.encode({"error": {**members, **error.more}})


def to_http_error(error: Exception) -> HttpError:
    """The HTTP error for an exception. An unexpected exception becomes a 500 without its text, which may be
    confidential."""
    if isinstance(error, HttpError):
        return error
    for kind, (status, code) in _STATUS.items():
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if error.retryable else {}
            return HttpError(status, code, error.what, headers=headers)
    return HttpError(500, "internal", "The server failed; the log of its process has the reason.")


async def send_body(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes = b"application/json",
    headers: Mapping[str, str] | None = None,
    *,
    is_last: bool = True,
) -> None:
    """Sends a whole response.

    Args:
        send: the server's.
        status, body, content_type, headers: the response.
        is_last: whether the response is complete then; else an empty part of the body completes it.
    """
    lines = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    lines += [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


async def send_error(send: Send, error: HttpError, body: bytes | None = None, *, is_last: bool = True) -> None:
    """Sends an error; its body is `error_body` unless another is given. `is_last` as for send_body."""
    headers = {**error.headers, **({"Connection": "close"} if error.close else {})}
    content = error_body(error) if body is None else body
    await send_body(send, error.status, content, headers=headers, is_last=is_last)
