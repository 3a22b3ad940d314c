"""Error bodies: every door answers `{"error": {"code", "message", "field"?, ...}}`."""

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

__all__ = ["HttpError", "error_body", "send_error", "send_json", "to_http_error"]

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
    """An answer other than success.

    Args:
        status: the HTTP status.
        code: one word for programs, such as `too_large`.
        message: one sentence for people.
        field: the field of the request it concerns.
        more: what else the error's body holds.
        headers: further headers of the answer, such as Retry-After.
        close: whether the connection ends with it (the rest of the request is not read).
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
    inner = {"code": error.code, "message": error.message}
    if error.field is not None:
        inner["field"] = error.field
    return _encoder.encode({"error": {**inner, **error.more}})


def to_http_error(error: Exception) -> HttpError:
    """What a door answers for an error of the house. Anything unforeseen is a 500 that says no more
    than that: its text may hold what the caller must not see."""
    if isinstance(error, HttpError):
        return error
    for kind, (status, code) in _STATUS.items():
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if error.retryable else {}
            return HttpError(status, code, error.what, headers=headers)
    return HttpError(500, "internal", "Something failed here; the log of the process says what.")


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Sends a whole JSON answer."""
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    lines += [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: HttpError) -> None:
    """Sends an error as its JSON answer."""
    headers = {**error.headers, **({"Connection": "close"} if error.close else {})}
    await send_json(send, error.status, error_body(error), headers)
