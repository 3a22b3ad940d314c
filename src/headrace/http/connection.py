"""A connection: uvicorn's protocol with what it lacks, so that no slow or idle client shuts a door.

A client is waited for only so long: for the head of a request, for the next request, for room to write an
answer. (How long a body may take is the door's.) A connection that waits for its client costs a file, and
files are few: one more than there may be closes the one that has waited longest, so whoever holds many
connections open loses them to those who come with a request.

What of uvicorn is used that it does not document: HttpToolsProtocol and its callbacks, `cycle`, `flow`,
`timeout_keep_alive_task`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.http.responses import HttpError, error_body

__all__ = ["Connection", "WaitingConnections", "raise_file_limit"]

_log = logging.getLogger("headrace.http")
_HEAD_SECONDS = 10.0  # a request line and headers must be whole within this
_HEAD_BYTES = 64 * 1024
_IDLE_SECONDS = 30.0  # how long the next request may be waited for
_WRITE_SECONDS = 30.0  # how long a client may take none of an answer
_CLOSE_SECONDS = 5.0  # how long a closed connection may take to hand over what was written
_FILES = 10_240  # files that this process should be able to open


def raise_file_limit() -> int:
    """Lets this process open more files, as far as it may; how many it then may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):  # it may not: then it has what it has
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


class WaitingConnections:
    """The connections of one server that wait for their clients, the longest wait first.

    Args:
        most: how many connections there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Connection, None] = {}
        self._has_warned = False

    def add(self, connection: Connection) -> None:
        """The connection waits for its client from now on."""
        self._connections.pop(connection, None)
        self._connections[connection] = None

    def remove(self, connection: Connection) -> None:
        """It does not: its request is being answered, or it is gone."""
        self._connections.pop(connection, None)

    def make_room(self, count: int) -> None:
        """Closes the one that has waited longest where there are more connections than may be."""
        if count > self._most:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("more than %d connections: those that wait longest are closed", self._most)
            longest = next(iter(self._connections))
            self.remove(longest)
            longest.transport.abort()


class Connection(HttpToolsProtocol):
    """One client's connection.

    Args:
        waiting: the server's connections that wait.
    """

    def __init__(self, *args: Any, waiting: WaitingConnections, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None  # ends the wait for its client
        self._write_timer: asyncio.TimerHandle | None = None
        self._awaits_head = False
        self._heads = 0  # begun so far
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting.add(self)
        self._waiting.make_room(len(self.connections))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._is_idle() and not self._awaits_head:
            self._await_head()  # also where what comes is nothing yet, such as an empty line
        head = self._heads
        super().data_received(data)
        if self._awaits_head and self._heads == head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._give_up(431, "too_large", "The headers are too large.")

    def on_message_begin(self) -> None:
        if not self._awaits_head:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._cancel_timer()
        self._waiting.add(self)  # for the body
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._waiting.remove(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's ends with any byte, such as an empty line
        if not self._is_idle():
            return  # the next request is here already
        if self.cycle.more_body:
            self.transport.close()  # the rest of the body is no request, and nobody times it
        if self.transport.is_closing():
            self._start_timer(_CLOSE_SECONDS, self.transport.abort)
            return
        self._waiting.add(self)
        if not self._awaits_head:
            self._start_timer(_IDLE_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_write_timer()
        self._waiting.remove(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(_WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - its text is for people alone
        self._give_up(400, "bad_request", "This is no valid HTTP request.")

    def _is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._awaits_head = True
        self._heads += 1
        self._head_bytes = 0
        self._start_timer(_HEAD_SECONDS, self._give_up_head)

    def _give_up_head(self) -> None:
        if self._is_idle():
            self._give_up(408, "timeout", "The request did not arrive in time.")
        else:  # a pipelined request waits for the answer before it, not for its client
            self._start_timer(_HEAD_SECONDS, self._give_up_head)

    def _give_up(self, status: int, code: str, message: str) -> None:
        self._awaits_head = False
        self._cancel_timer()
        if self.transport.is_closing():
            return
        content = error_body(HttpError(status, code, message))
        head = (
            f"HTTP/1.1 {status} {code}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
        self._start_timer(_CLOSE_SECONDS, self.transport.abort)

    def _start_timer(self, seconds: float, end: Any) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, end)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
