"""The types of an ASGI application, and helpers to read a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["App", "Disconnected", "Message", "Receive", "Scope", "Send", "find_header", "read_body"]

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


async def read_body(receive: Receive, limit: int, seconds: float) -> bytes | None:
    """The whole body; None if it is longer than `limit` bytes.

    Raises:
        TimeoutError: it was not complete within `seconds`.
        Disconnected: the client closed the connection.
    """
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(seconds):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
