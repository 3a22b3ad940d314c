"""Serves one ASGI application on one port, by uvicorn in a thread of this process.

Time limits of clients and the limit of connections are in headrace.http.connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType

import uvicorn
import uvloop

from headrace.http.asgi import App
from headrace.http.connection import Connection, WaitingConnections, raise_file_limit
from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["HttpServer", "await_stop", "bind", "serve", "stop_on_signals", "url_of"]

_log = logging.getLogger("headrace.http")
_START_SECONDS = _STOP_SECONDS = 30.0  # far more than either takes, unless the machine is busy
_BACKLOG = 1024
_DRAIN_LOOK = 0.1  # seconds
_STOP_LOOK = 1.0  # seconds


def bind(host: str, port: int) -> socket.socket:
    """Opens a listening socket on the address, so that a port in use is found early.

    Args:
        host: a name or address.
        port: the port; 0: any free port.

    Raises:
        Unavailable: the port is in use, or this process may not listen on the address.
    """
    where = f"{host}:{port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} is in use",
                where=where,
                remedy="End the process that uses it, or set another port in headrace.toml (0: any free).",
            ) from error
        raise Unavailable(f"the port cannot be opened: {error.strerror or error}", where=where) from error
    listening.setblocking(False)
    return listening


def url_of(host: str, port: int) -> str:
    """The URL by which a client on this machine reaches a server on this address."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


class HttpServer:
    """A running server. As a context manager it stops when the block ends.

    Attributes:
        host, port: the address that it listens on.
        url: the URL for clients on this machine.
    """

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        max_connections: int,
        beat: Callable[[], None] | None,
        drain: float,
        grace: int,
    ) -> None:
        self.host, self.port = listening.getsockname()[:2]
        self.url = url_of(self.host, self.port)
        self._socket = listening
        self._ready = threading.Event()
        self._error: BaseException | None = None
        waiting = WaitingConnections(max_connections)
        self._grace = grace
        self._server = _Server(_config(app, waiting, beat, grace), self._ready, drain, waiting)
        self._thread = threading.Thread(target=self._run, name=f"http {self.port}", daemon=True)

    def stop(self, timeout: float | None = None) -> None:
        """Stops accepting requests, waits up to `grace` seconds for those in progress and cancels what is left,
        and closes the port.

        Raises:
            HeadraceError: it did not stop within `timeout` seconds; by default 30 s after `grace`.
        """
        self._server.should_exit = True
        self._thread.join(self._grace + _STOP_SECONDS if timeout is None else timeout)
        if self._thread.is_alive():
            raise HeadraceError("the server did not stop in time", where=self.url)

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> HttpServer:
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self._error is not None:
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
    max_connections: int | None = None,
    beat: Callable[[], None] | None = None,
    drain: float = 0.0,
    grace: int = 5,
) -> HttpServer:
    """Serves the application in a thread, and returns when it accepts requests.

    Args:
        app: an ASGI application, normally behind http.middleware.GuardMiddleware.
        host, port: the address to listen on; port 0: any free port.
        bound: a socket from `bind`, instead of host and port.
        max_connections: how many clients may be connected. One more closes the connection that has waited
            longest for its client. Default: three quarters of the files that this process may open.
        beat: called by the event loop every second, as a sign that it is not blocked.
        drain: seconds for which a stopped server still answers on its open connections, each of which ends with
            its next answer. With several servers on one socket, this answers connections that were just
            accepted, and tells busy clients to connect to another server.
        grace: seconds that the requests in progress have when the server is stopped.

    Raises:
        Unavailable: the port is in use.
        HeadraceError: the application failed to start.
    """
    limit = max_connections or raise_file_limit() * 3 // 4
    return HttpServer(app, bound or bind(host, port), limit, beat, drain, grace)._start()


def stop_on_signals(stop: threading.Event | None = None) -> threading.Event:
    """Makes SIGTERM and SIGINT set the event, or a new one; returns it. A second SIGINT interrupts as usual.

    Call it from the main thread.
    """
    stop = stop or threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def await_stop(stop: threading.Event) -> None:
    """Waits until a signal sets the event of `stop_on_signals`. Call it from the main thread.

    The system may give a signal to another thread, as when it arrives while the process is suspended. Python
    handles it in the main thread then, but does not wake it.
    """
    while not stop.wait(_STOP_LOOK):
        pass


def _config(
    app: App, waiting: WaitingConnections, beat: Callable[[], None] | None, grace: int
) -> uvicorn.Config:
    async def notify() -> None:
        if beat is not None:
            beat()

    return uvicorn.Config(
        app,
        http=partial(Connection, waiting=waiting),  # type: ignore[arg-type]  # it is called
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="critical",  # GuardMiddleware logs errors
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace,
        callback_notify=None if beat is None else notify,
        timeout_notify=1,  # seconds
    )


class _Server(uvicorn.Server):
    """Sets `ready` after its start. When stopped, it still answers on its connections for `drain` seconds."""

    def __init__(
        self, config: uvicorn.Config, ready: threading.Event, drain: float, waiting: WaitingConnections
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._drain = drain
        self._waiting = waiting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit:
            raise HeadraceError("the application refused to start")
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._drain:
            for server in self.servers:
                server.close()
            self._waiting.is_draining = True
            end = time.monotonic() + self._drain
            while time.monotonic() < end:
                await asyncio.sleep(_DRAIN_LOOK)  # connections that were just accepted are seen by then
                if not self.server_state.connections:
                    break
        await super().shutdown(sockets)
