"""Runs the replicas on Ray Serve, for a cluster of machines.

The driver (ray_driver) is a child of this process, because Ray's client ends a process whose Ray has died, and
that must not be the process that supervises it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

from headrace.cluster.folder import remove_unused_folders
from headrace.config.settings import Settings
from headrace.http.serve import bind, url_of
from headrace.http.token import check_tokens
from headrace.kernel.children import Child
from headrace.kernel.errors import ProjectError
from headrace.serving.metrics_slot import clear_metrics
from headrace.serving.shipper import run_shipper

__all__ = ["RayServeDeployment", "start"]

_LONGEST_START = 180.0  # seconds within which the endpoint must answer
_GRACE = 30.0  # how many seconds Ray may take to end


class RayServeDeployment:
    """Replicas on Ray Serve (serving.deployment.Deployment).

    Ray supervises the replicas, and the driver checks every two seconds that the endpoint answers. If it has
    not answered for 20 s, the driver and Ray are restarted.

    Attributes:
        url: the endpoint's address.
    """

    def __init__(
        self, settings: Settings, models: Sequence[str], port: int, stop: threading.Event | None
    ) -> None:
        self._is_local = settings.cluster.is_local
        self.url = url_of(settings.http.host, port)
        command = [
            sys.executable,
            "-m",
            "headrace.serving.deployment.ray_driver",
            str(settings.root),
            settings.profile_name,
            str(port),
            *models,
        ]
        environment = {
            **os.environ,
            "HEADRACE_STATE": str(settings.state.parent),
            "HEADRACE_REPLICAS": str(settings.serving.replicas),
        }
        with ExitStack() as stack:
            stack.enter_context(run_shipper(settings))
            clear_metrics(settings.place("serving", "metrics"))
            self._driver = Child(
                "ray-serve",
                command,
                settings.place("up", "ray-serve.log"),
                environment,
                longest_start=_LONGEST_START,
            )
            stack.callback(self._end_driver)
            self._driver.await_ready(stop)
            self._stack = stack.pop_all()

    @property
    def processes(self) -> dict[str, int]:
        """The driver; Ray supervises the replicas."""
        return {self._driver.name: self._driver.process.pid}

    def supervise(self, report: Callable[[str], None]) -> None:
        """Restarts the driver and Ray if they have died or the endpoint does not answer."""
        self._driver.supervise(report)

    def roll(self, report: Callable[[str], None]) -> None:
        """Makes the driver deploy the replicas again; Serve replaces one after the other."""
        self._driver.process.send_signal(signal.SIGUSR1)
        report("the replicas are deployed again")

    def stop(self) -> None:
        """Ends the replicas and HAProxy, ships the predictions that are left, and ends Ray if it was started
        here."""
        self._stack.close()

    def _end_driver(self) -> None:
        # A Ray of this machine that has not started is killed, because it does not end before it has started.
        has_started = not self._is_local or self._driver.ready or self._does_listen()
        self._driver.terminate()
        self._driver.end(time.monotonic() + (_GRACE if has_started else 0.0))
        remove_unused_folders()

    def _does_listen(self) -> bool:
        """Whether clients can connect. A driver that was restarted answers before it counts as ready."""
        address = urlsplit(self.url)
        try:
            socket.create_connection((address.hostname, address.port), timeout=1).close()
        except OSError:
            return False
        return True


def start(
    settings: Settings, models: Sequence[str] = (), *, port: int, stop: threading.Event | None = None
) -> RayServeDeployment:
    """Starts Ray Serve and returns when the endpoint answers; see serving.deployment.start."""
    check_tokens(settings.http.host, settings.token_paths)
    serving = settings.serving
    if serving.max_replicas is not None and serving.max_replicas < serving.replicas:
        raise ProjectError(
            f"it is {serving.max_replicas}, and replicas, the least number, is {serving.replicas}",
            where="headrace.toml: max_replicas",
        )
    if settings.cluster.is_local:  # HAProxy would say so after half a minute
        bind(settings.http.host, port).close()
    return RayServeDeployment(settings, models, port, stop)
