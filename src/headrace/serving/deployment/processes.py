"""Runs the replicas as child processes of this process, which share one listening socket.

The socket belongs to this process. While a replica is down, new connections wait for another replica. While no
replica is ready, this process answers 503. No connection is refused. The kernel gives each connection to a
replica that is free to accept it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from headrace.config.settings import Settings
from headrace.http.asgi import Receive, Scope, Send
from headrace.http.responses import HttpError, send_error
from headrace.http.serve import HttpServer, bind, serve, url_of
from headrace.http.token import check_tokens
from headrace.kernel.children import Child
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.serving.deployment.replica import DRAIN, GRACE
from headrace.serving.metrics_slot import clear_metrics
from headrace.serving.shipper import run_shipper

__all__ = ["ProcessDeployment", "answer_unavailable", "start"]

_GRACE = GRACE + 10.0  # how many seconds a replica may take to end, with what it does after its last answer


class ProcessDeployment:
    """Replicas in separate processes (serving.deployment.Deployment).

    Attributes:
        url: the endpoint's address.
    """

    def __init__(self, settings: Settings, models: Sequence[str], port: int, stack: ExitStack) -> None:
        self._settings, self._models, self._stack = settings, tuple(models), stack
        self._socket = bind(settings.http.host, port)
        self.url = url_of(*self._socket.getsockname()[:2])
        self._fallback: HttpServer | None = None
        stack.callback(self._close_socket)
        stack.enter_context(run_shipper(settings))
        self._replicas: list[Child] = []
        self._to_replace: list[int] = []  # indexes of replicas that the rolling restart has not replaced yet
        self._new: Child | None = None  # the new replica that starts, to replace the first of these
        self._old: Child | None = None  # the replaced replica, while it ends
        self._old_deadline = 0.0  # monotonic
        stack.callback(self._end_replicas)
        clear_metrics(settings.place("serving", "metrics"))
        self._start_fallback()
        for number in range(1, settings.serving.replicas + 1):
            self._replicas.append(self._start_replica(f"replica-{number}"))

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id of the replicas."""
        return {replica.name: replica.process.pid for replica in self._replicas}

    def supervise(self, report: Callable[[str], None]) -> None:
        """Restarts replicas that have died or hang, and continues a rolling restart. While no replica is
        responsive, this process answers 503."""
        for replica in self._replicas:
            replica.supervise(report)
        self._continue_roll(report)
        if any(replica.responsive for replica in self._replicas):
            self._stop_fallback()
        else:
            self._start_fallback()

    def roll(self, report: Callable[[str], None]) -> None:  # noqa: ARG002 - `supervise` reports
        """Makes `supervise` replace one replica after the other.

        The new replica is ready before the old one is asked to end, and the old one first answers the requests
        that it has accepted. If a new replica does not start, the old ones continue.
        """
        waiting = self._to_replace[0 if self._new is None else 1 :]
        self._to_replace += [index for index in range(len(self._replicas)) if index not in waiting]

    def _continue_roll(self, report: Callable[[str], None]) -> None:
        if self._old is not None:
            if self._old.process.poll() is None and time.monotonic() < self._old_deadline:
                return
            self._old.end(self._old_deadline)
            self._old = None
        if self._new is None:
            if self._to_replace:
                self._new = self._start_replica(self._replicas[self._to_replace[0]].name)
            return
        new = self._new
        try:
            is_ready = new.check_start()
        except Unavailable as error:
            report(f"{new.name} was not replaced, and the old process continues: {error.what}")
            self._new, self._to_replace = None, []
            new.process.kill()
            new.end(time.monotonic())
            return
        if is_ready:
            index = self._to_replace.pop(0)
            self._old, self._replicas[index] = self._replicas[index], new
            self._new = None
            self._old_deadline = time.monotonic() + _GRACE
            self._old.terminate()
            report(f"{new.name} was replaced")

    def stop(self) -> None:
        """Ends the replicas and ships the predictions that are left."""
        self._stack.close()

    def await_ready(self, stop: threading.Event | None) -> None:
        """Returns when a replica is ready, or `stop` is set.

        Raises:
            Unavailable: the first replica died, or took too long.
        """
        self._replicas[0].await_ready(stop)
        if self._replicas[0].ready:
            self._stop_fallback()

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
        # A client whose connection a replica closes opens another one at once: that one must be answered, too.
        self._start_fallback()
        rolling = [replica for replica in (self._new, self._old) if replica is not None]
        for replica in [*self._replicas, *rolling]:
            replica.terminate()
        deadline = time.monotonic() + _GRACE
        for replica in [*self._replicas, *rolling]:
            replica.end(deadline)

    def _start_fallback(self) -> None:
        """Answers 503 on the shared socket."""
        if self._fallback is None:
            shared = socket.socket(fileno=os.dup(self._socket.fileno()))
            shared.setblocking(False)
            self._fallback = serve(answer_unavailable, "", 0, bound=shared, drain=DRAIN)

    def _close_socket(self) -> None:
        """Closes the socket. The kernel resets what is queued there then, so the fallback first accepts it."""
        self._socket.listen(0)  # no more of them queue up
        self._socket.close()
        self._stop_fallback()

    def _stop_fallback(self) -> None:
        if self._fallback is not None:
            self._fallback.stop()
            self._fallback = None


def start(
    settings: Settings, models: Sequence[str] = (), *, port: int, stop: threading.Event | None = None
) -> ProcessDeployment:
    """Starts the replicas and returns when one answers; see serving.deployment.start."""
    check_tokens(settings.http.host, settings.token_paths)
    if settings.serving.max_replicas is not None:
        raise ProjectError(
            "the number of replicas that are processes of this machine does not follow the load",
            where="headrace.toml: max_replicas",
            remedy='Set replicas alone, or serving = "ray_serve".',
        )
    with ExitStack() as stack:
        deployment = ProcessDeployment(settings, models, port, stack)
        deployment.await_ready(stop)
        deployment._stack = stack.pop_all()
        return deployment


async def answer_unavailable(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers 503: what a client sees while no replica is ready."""
    if scope["type"] == "http":
        message = "No replica of the predict endpoint is ready; try again in a moment."
        await send_error(send, HttpError(503, "unavailable", message, headers={"Retry-After": "1"}, close=True))
