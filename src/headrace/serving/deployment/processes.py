"""Replicas as child processes of this one, which share one listening socket.

The socket is this process': while a replica is down, those that connect wait for another or are answered 503
here, and nobody is refused. The kernel hands each connection to a replica that is free to take it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from headrace.config.settings import Settings
from headrace.http.asgi import Receive, Scope, Send
from headrace.http.responses import HttpError, send_error
from headrace.http.serve import HttpServer, bind, serve, url_of
from headrace.http.token import token_for
from headrace.kernel.children import Child
from headrace.kernel.errors import Unavailable
from headrace.serving.shipper import run_shipper

__all__ = ["Processes", "start"]

_END = 10.0  # seconds that a replica has to end


class Processes:
    """Replicas in processes of their own (serving.deployment.Deployment).

    Attributes:
        url: the endpoint's address.
    """

    def __init__(self, settings: Settings, models: Sequence[str], port: int, stack: ExitStack) -> None:
        self._settings, self._models, self._stack = settings, tuple(models), stack
        self._socket = bind(settings.http.host, port)
        stack.callback(self._socket.close)
        self.url = url_of(*self._socket.getsockname()[:2])
        self._stand_in: HttpServer | None = None
        stack.callback(self._stand_down)
        stack.enter_context(run_shipper(settings))
        self._replicas: list[Child] = []
        self._to_replace: list[int] = []  # by a roll: places in these
        self._coming: Child | None = None  # for the first of these places
        self._leaving: Child | None = None
        self._deadline = 0.0  # monotonic, of the one that leaves
        stack.callback(self._end_replicas)
        self._stand_by()
        for number in range(1, settings.serving.replicas + 1):
            self._replicas.append(self._start_replica(f"replica-{number}"))

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id of the replicas."""
        return {replica.name: replica.process.pid for replica in self._replicas}

    def look(self, report: Callable[[str], None]) -> None:
        """Starts again what has died or hangs, and goes on with a roll; answers 503 from here while no replica
        is at work."""
        for replica in self._replicas:
            replica.look(report)
        self._go_on_rolling(report)
        if any(replica.ready for replica in self._replicas):
            self._stand_down()
        else:
            self._stand_by()

    def roll(self, report: Callable[[str], None]) -> None:  # noqa: ARG002 - `look` reports
        """Has `look` put a new process in the place of each replica, one after the other: the new one is at
        work before the old one is asked to end, which it does when it has answered what it has taken. Where a
        new one does not start, the old ones go on."""
        waiting = self._to_replace[0 if self._coming is None else 1 :]
        self._to_replace += [place for place in range(len(self._replicas)) if place not in waiting]

    def _go_on_rolling(self, report: Callable[[str], None]) -> None:
        if self._leaving is not None:
            if self._leaving.process.poll() is None and time.monotonic() < self._deadline:
                return
            self._leaving.end(self._deadline)
            self._leaving = None
        if self._coming is None:
            if self._to_replace:
                self._coming = self._start_replica(self._replicas[self._to_replace[0]].name)
            return
        new = self._coming
        try:
            ready = new.check_start()
        except Unavailable as error:
            report(f"{new.name} was not replaced, and the old one goes on: {error.what}")
            self._coming, self._to_replace = None, []
            new.process.kill()
            new.end(time.monotonic())
            return
        if ready:
            place = self._to_replace.pop(0)
            old, self._replicas[place] = self._replicas[place], new
            self._coming, self._leaving = None, old
            self._deadline = time.monotonic() + _END
            old.ask_to_end()
            report(f"{new.name} was replaced")

    def stop(self) -> None:
        """Ends the replicas, and ships the predictions that they have left."""
        self._stack.close()

    def await_ready(self) -> None:
        """Returns when a replica is at work.

        Raises:
            Unavailable: the first one died, or took too long.
        """
        self._replicas[0].await_ready()
        self._stand_down()

    def _start_replica(self, name: str) -> Child:
        settings = self._settings
        descriptor = self._socket.fileno()
        command = [
            sys.executable,
            "-m",
            "headrace.serving.deployment.replica",
            str(settings.root),
            settings.profile_name,
            str(descriptor),
            *self._models,
        ]
        environment = {**os.environ, "HEADRACE_STATE": str(settings.state.parent)}
        return Child(name, command, settings.place("up", f"{name}.log"), environment, [descriptor])

    def _end_replicas(self) -> None:
        rolled = [replica for replica in (self._coming, self._leaving) if replica is not None]
        for replica in [*self._replicas, *rolled]:
            replica.ask_to_end()
        deadline = time.monotonic() + _END
        for replica in [*self._replicas, *rolled]:
            replica.end(deadline)

    def _stand_by(self) -> None:
        """Answers 503 on the shared socket."""
        if self._stand_in is None:
            shared = socket.socket(fileno=os.dup(self._socket.fileno()))
            shared.setblocking(False)
            self._stand_in = serve(_answer_unavailable, "", 0, bound=shared)

    def _stand_down(self) -> None:
        if self._stand_in is not None:
            self._stand_in.stop()
            self._stand_in = None


def start(settings: Settings, models: Sequence[str] = (), *, port: int) -> Processes:
    """Starts the replicas and returns when one answers; see serving.deployment.start."""
    token_for(settings.http.host)
    with ExitStack() as stack:
        deployment = Processes(settings, models, port, stack)
        deployment.await_ready()
        deployment._stack = stack.pop_all()
        return deployment


async def _answer_unavailable(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        what = "No replica of the predict endpoint is at work just now; ask again in a moment."
        await send_error(send, HttpError(503, "unavailable", what, headers={"Retry-After": "1"}, close=True))
