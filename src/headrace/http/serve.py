"""Serving: one application on one port, by uvicorn in a thread of this process."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headrace.http.answer import HttpError, error_body
from headrace.http.asgi import App
from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["Served", "bind", "serve", "signalled", "url_of"]

_log = logging.getLogger("headrace.http")
_HEAD_SECONDS = 10.0  # a request line and headers must be whole within this
_HEAD_BYTES = 64 * 1024
_READY_SECONDS = 30.0
_GRACE_SECONDS = 5
_BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, so that nothing is begun that would then find its port taken.

    Args:
        host: a name or address. port: 0 takes a free one.

    Raises:
        Unavailable: the port is in use, or may not or cannot be bound.
    """
    where = f"{host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        one = socket.socket(family, kind, proto)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            one.listen(_BACKLOG)
        except OSError:
            one.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} is in use",
                where=where,
                remedy="Stop what listens there, or choose another port in headrace.toml (0 takes a free one).",
            ) from error
        raise Unavailable(f"it cannot be listened on: {error.strerror or error}", where=where) from error
    one.setblocking(False)
    return one


def url_of(host: str, port: int) -> str:
    """The address at which this machine reaches what listens there."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


class Served:
    """An application being served.

    Attributes:
        host, port: where it listens. url: the same as an address.
    """

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        limit_concurrency: int,
        beat: Callable[[], None] | None,
        drain: float,
    ) -> None:
        self.host, self.port = listening.getsockname()[:2]
        self.url = url_of(self.host, self.port)
        self._socket = listening
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._server = _Server(_config(app, limit_concurrency, beat), self._ready, drain)
        self._thread = threading.Thread(target=self._run, name=f"http {self.port}", daemon=True)

    def stop(self, timeout: float = _GRACE_SECONDS + 5) -> None:
        """Takes no more requests, lets those in progress end (5 s at most), and frees the port."""
        self._server.should_exit = True
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise HeadraceError("the server did not stop in time", where=self.url)

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> Served:
        self._thread.start()
        if not self._ready.wait(_READY_SECONDS) or self._error is not None:
            self._server.should_exit = True
            raise HeadraceError(
                f"the server did not start: {self._error or 'it took too long'}", where=self.url
            )
        return self

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._server.serve(sockets=[self._socket]))
        except BaseException as error:
            self._error = error
            _log.exception("the server on %s ended", self.url)
        finally:
            self._socket.close()
            self._ready.set()


def serve(
    app: App,
    host: str,
    port: int,
    *,
    bound: socket.socket | None = None,
    limit_concurrency: int = 1000,
    beat: Callable[[], None] | None = None,
    drain: float = 0.0,
) -> Served:
    """Serves the application in a thread and returns when it takes requests.

    Args:
        app: an ASGI application, normally behind http.door.Door.
        host, port: where to listen; port 0 takes a free one.
        bound: a socket that `bind` gave earlier.
        limit_concurrency: requests at once; more are answered 503.
        beat: called by the event loop every second, for who must know that it goes round.
        drain: how long it goes on with the connections it has when it is stopped, in seconds: for one of
            several that share the socket, so that a request which has just come in is answered.

    Raises:
        Unavailable: the port is in use.
        HeadraceError: the application failed to start.
    """
    return Served(app, bound or bind(host, port), limit_concurrency, beat, drain)._start()


def signalled(stop: threading.Event | None = None) -> threading.Event:
    """An event that SIGTERM and SIGINT set; to be called from the main thread. A second SIGINT
    interrupts as usual."""
    stop = stop or threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _config(app: App, limit_concurrency: int, beat: Callable[[], None] | None) -> uvicorn.Config:
    async def notify() -> None:
        if beat is not None:
            beat()

    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="critical",  # the door logs what matters
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        callback_notify=None if beat is None else notify,
        timeout_notify=1,  # seconds
        limit_concurrency=limit_concurrency,
    )


class _Server(uvicorn.Server):
    """Says when it is ready, and goes on for a while with the connections it has when it is stopped."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event, drain: float) -> None:
        super().__init__(config)
        self._ready = ready
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            raise HeadraceError("the application refused to start")
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain:
            for server in self.servers:
                server.close()
            await asyncio.sleep(self._drain)
        await super().shutdown(sockets)


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with what it lacks: a time and a size for the head of a request, without
    which one slow or endless client holds a connection or fills the memory."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        awaited = self._head_timer is not None
        super().data_received(data)
        if awaited and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._give_up(431, "too_large", "The headers are too large.")

    def on_message_begin(self) -> None:
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._cancel_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - its text is for people alone
        self._give_up(400, "bad_request", "This is no valid HTTP request.")

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_late)

    def _head_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # a pipelined request waits for the answer before it, not for its client
        else:
            self._give_up(408, "timeout", "The request did not arrive in time.")

    def _cancel_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self, status: int, code: str, message: str) -> None:
        self._cancel_head()
        if self.transport.is_closing():
            return
        content = error_body(HttpError(status, code, message))
        head = (
            f"HTTP/1.1 {status} {code}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        self.transport.close()
