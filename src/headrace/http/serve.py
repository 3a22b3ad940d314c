"""Serving: one application on one port, by uvicorn in a thread of this process.

How long a client may take, and how many may be connected, is headrace.http.connection's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType

import uvicorn
import uvloop

from headrace.http.asgi import App
from headrace.http.connection import Connection, WaitingConnections, raise_file_limit
from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["HttpServer", "bind", "serve", "stop_on_signals", "url_of"]

_log = logging.getLogger("headrace.http")
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


class HttpServer:
    """An application being served.

    Attributes:
        host, port: where it listens. url: the same as an address.
    """

    def __init__(
        self,
        app: App,
        listening: socket.socket,
        most_connections: int,
        beat: Callable[[], None] | None,
        drain: float,
    ) -> None:
        self.host, self.port = listening.getsockname()[:2]
        self.url = url_of(self.host, self.port)
        self._socket = listening
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._server = _Server(_config(app, most_connections, beat), self._ready, drain)
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

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> HttpServer:
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
    most_connections: int | None = None,
    beat: Callable[[], None] | None = None,
    drain: float = 0.0,
) -> HttpServer:
    """Serves the application in a thread and returns when it takes requests.

    Args:
        app: an ASGI application, normally behind http.middleware.GuardMiddleware.
        host, port: where to listen; port 0 takes a free one.
        bound: a socket that `bind` gave earlier.
        most_connections: how many clients may be connected. One more closes the connection that has waited
            longest for its client. Default: three quarters of the files that this process may open.
        beat: called by the event loop every second, for who must know that it goes round.
        drain: how long it goes on with the connections it has when it is stopped, in seconds: for one of
            several that share the socket, so that a request which has just come in is answered.

    Raises:
        Unavailable: the port is in use.
        HeadraceError: the application failed to start.
    """
    most = most_connections or raise_file_limit() * 3 // 4
    return HttpServer(app, bound or bind(host, port), most, beat, drain)._start()


def stop_on_signals(stop: threading.Event | None = None) -> threading.Event:
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


def _config(app: App, most_connections: int, beat: Callable[[], None] | None) -> uvicorn.Config:
    async def notify() -> None:
        if beat is not None:
            beat()

    return uvicorn.Config(
        app,
        http=partial(Connection, waiting=WaitingConnections(most_connections)),  # type: ignore[arg-type]  # it is called
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="critical",  # the door logs what matters
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        callback_notify=None if beat is None else notify,
        timeout_notify=1,  # seconds
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
