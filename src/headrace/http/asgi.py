"""The types of an ASGI application, and helpers to read a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = [
    "IS_COMPLETE",
    "App",
    "Disconnected",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "find_header",
    "read_body",
]

IS_COMPLETE = "headrace.is_complete"
"""The key in a scope whose request had arrived whole when the application was called."""
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Disconnected(Exception):
    """The client closed the connection before its request was complete."""


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header with this lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            content: bytes = value
            return content
    return None


async def read_body(
    scope: Scope,
    receive: Receive,
    limit: int,
    seconds: float,
    *,
    keep: bool = True,
    reserve: Callable[[int], None] | None = None,
) -> bytes | None:
    """The whole body; None if it is longer than `limit` bytes. If it is not kept, what is read is discarded.

    Args:
        scope, receive: the request.
        limit: the most bytes.
        seconds: how long it may take to arrive.
        keep: see above.
        reserve: takes the bytes so far, before they are kept; its error ends the reading.

    Raises:
        TimeoutError: it was not complete within `seconds`.
        Disconnected: the client closed the connection.
    """
    if IS_COMPLETE in scope:  # nothing has to be waited for, and a time limit is a tenth of our own work
        return await _join_parts(receive, limit, reserve, keep=keep)
    async with asyncio.timeout(seconds):
        return await _join_parts(receive, limit, reserve, keep=keep)


async def _join_parts(
    receive: Receive, limit: int, reserve: Callable[[int], None] | None, *, keep: bool
) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        if reserve is not None:
            try:
                reserve(size)
            except BaseException:
                parts.clear()  # the error's frames would hold them
                raise
        if keep:
            parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
