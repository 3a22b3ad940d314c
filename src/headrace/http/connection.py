"""Connections: uvicorn's protocol with time limits and a limit of connections, against slow and idle clients.

The server waits a limited time for the head of a request, for the next request, and for a client to read a
response. (GuardMiddleware limits the time of a body.) Each waiting connection needs an open file, and a process
can open few. So a connection beyond the limit closes the connection that has waited longest: a client that
holds many connections open loses them to clients that send requests.

headrace.http.internals lists the parts of uvicorn beyond its public interface that this module uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.http.asgi import IS_COMPLETE
from headrace.http.responses import HttpError, error_body

__all__ = ["Connection", "WaitingConnections", "raise_file_limit"]

_log = logging.getLogger("headrace.http")
_HEAD_SECONDS = 10.0  # for a request line and headers
_HEAD_BYTES = 64 * 1024  # of a head, and of what is no part of a body
_IDLE_SECONDS = 30.0  # until the next request
_WRITE_SECONDS = 30.0  # without the client reading any of a response
_CLOSE_SECONDS = 5.0  # for a closed connection to send what was written
_FILES = 10_240  # files that this process should be able to open


def raise_file_limit() -> int:
    """Raises the limit of open files, up to the number that a server should have; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(OSError, ValueError):  # not permitted: the limit stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


class WaitingConnections:
    """The connections of one server that wait for their clients, the longest wait first.

    Args:
        limit: how many connections there may be.

    Attributes:
        is_draining: whether the server ends, so that a connection is closed with its next answer.
    """

    def __init__(self, limit: int) -> None:
        self.is_draining = False
        self._limit = limit
        self._connections: dict[Connection, None] = {}
        self._has_warned = False

    def add(self, connection: Connection) -> None:
        """Adds a connection that starts to wait for its client."""
        self._connections.pop(connection, None)
        self._connections[connection] = None

    def remove(self, connection: Connection) -> None:
        """Removes a connection that does not wait any more, or was closed."""
        self._connections.pop(connection, None)

    def make_room(self, count: int) -> None:
        """Closes the connection that has waited longest, if there are more connections than the limit."""
        if count > self._limit:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("more than %d connections: the longest waiting ones are closed", self._limit)
            longest = next(iter(self._connections))
            self.remove(longest)
            longest.transport.abort()


class Connection(HttpToolsProtocol):
    """One client's connection.

    Args:
        waiting: the server's waiting connections.
    """

    def __init__(self, *args: Any, waiting: WaitingConnections, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None  # of the wait for the client
        self._write_timer: asyncio.TimerHandle | None = None
        self._awaits_head = False
        self._progress = 0  # requests that have begun, and parts of bodies
        self._other_bytes = 0  # since the last progress: of a head, of trailers
        self._refusal: tuple[int, str, str] | None = None  # waits for the answers to the requests before it

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._waiting.add(self)
        self._waiting.make_room(len(self.connections))
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._is_idle() and not self._awaits_head:
            self._await_head()  # also if the data is not a request yet, such as an empty line
        if self._refusal is not None:
            return
        progress = self._progress
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._progress == progress:
            self._other_bytes += len(data)
            if self._other_bytes > _HEAD_BYTES:
                self._refuse(431, "too_large", "The headers are too large.")

    def on_message_begin(self) -> None:
        if not self._awaits_head:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # _parse parses the head once more without it, or refuses it
        self._awaits_head = False
        self._cancel_timer()
        self._waiting.add(self)  # for the body
        super().on_headers_complete()
        if self._waiting.is_draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._note_progress()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._waiting.remove(self)
        self.scope[IS_COMPLETE] = True  # type: ignore[literal-required]  # ASGI lets a server add keys
        super().on_message_complete()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        self._unset_keepalive_if_required()  # uvicorn's timer ends with any byte, such as an empty line
        if self._refusal is not None and is_last:
            self._close_with(*self._refusal)
            return
        if not self._is_idle():
            return  # the next request has arrived
        if self.cycle.more_body:
            self.transport.close()  # the rest of the body has no time limit
        if self.transport.is_closing():
            self._start_timer(_CLOSE_SECONDS, self.transport.abort)
            return
        self._waiting.add(self)
        if not self._awaits_head:
            self._start_timer(_IDLE_SECONDS, self.transport.abort)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio lets it keep the connection open
        """The client sends no more. Returns whether its requests are still to be answered, before the end."""
        if self._is_idle() or (self.cycle.more_body and not self.pipeline):
            return False
        if self.cycle.more_body:
            self._refuse(400, "bad_request", "The request is not complete.")
        elif self._refusal is None:
            self.cycle.keep_alive = False
        return True

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

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                if self.parser.get_method() != b"CONNECT":
                    rest = rest[upgrade.args[0] :]
                    self._parse_head_again()
                    continue
            except HttpParserError:
                pass
            self._refuse(400, "bad_request", "The request is not valid HTTP.")
            return

    def _parse_head_again(self) -> None:
        """Parses the head without its `Upgrade`, with which the parser takes no body for HTTP."""
        line = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(line + headers + b"\r\n")

    def _is_idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._awaits_head = True
        self._note_progress()
        self._start_timer(_HEAD_SECONDS, self._time_out_head)

    def _note_progress(self) -> None:
        self._progress += 1
        self._other_bytes = 0

    def _time_out_head(self) -> None:
        if self._is_idle():
            self._refuse(408, "timeout", "The request did not arrive in time.")
        else:  # a pipelined request waits for the response before it, not for its client
            self._start_timer(_HEAD_SECONDS, self._time_out_head)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Refuses what has arrived, once the complete requests before it have their answers."""
        is_in_progress = not self._is_idle()
        if is_in_progress and self.cycle.more_body:  # this request itself is refused
            if self.pipeline:
                self.pipeline.popleft()
            else:
                is_in_progress = False
        if is_in_progress:
            self._awaits_head = False
            self._cancel_timer()
            self._refusal = (status, code, message)
        else:
            self._close_with(status, code, message)

    def _close_with(self, status: int, code: str, message: str) -> None:
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
