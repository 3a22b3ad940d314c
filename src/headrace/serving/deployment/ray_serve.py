"""Replicas on Ray Serve; the way for a cluster of machines.

The driver (ray_driver) is a child of this process: Ray's client ends a process whose Ray has died, and that is
not to be the one that looks after it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from headrace.config.settings import Settings
from headrace.http.serve import url_of
from headrace.http.token import token_for
from headrace.kernel.children import Child
from headrace.serving.shipper import run_shipper

__all__ = ["RayServe", "start"]

_READY = 180.0  # seconds until the endpoint must have answered
_END = 30.0  # seconds that Ray has to end


class RayServe:
    """Replicas on Ray Serve (serving.deployment.Deployment). Ray watches them; the driver asks every two
    seconds whether the endpoint answers. Where it has not for 20 s, driver and Ray are started again.

    Attributes:
        url: the endpoint's address.
    """

    def __init__(self, settings: Settings, models: Sequence[str], port: int) -> None:
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
            self._driver = Child(
                "ray-serve", command, settings.place("up", "ray-serve.log"), environment, longest_start=_READY
            )
            stack.callback(self._end)
            self._driver.await_ready()
            self._stack = stack.pop_all()

    @property
    def processes(self) -> dict[str, int]:
        """The driver; the replicas are Ray's to look after."""
        return {self._driver.name: self._driver.process.pid}

    def look(self, report: Callable[[str], None]) -> None:
        """Starts driver and Ray again where they have died, or the endpoint does not answer."""
        self._driver.look(report)

    def roll(self, report: Callable[[str], None]) -> None:
        """Has the replicas deployed anew; Serve replaces them one after the other."""
        self._driver.process.send_signal(signal.SIGUSR1)
        report("the replicas are deployed anew")

    def stop(self) -> None:
        """Ends the replicas and HAProxy, ships what they have left, and ends Ray if it was started here."""
        self._stack.close()

    def _end(self) -> None:
        self._driver.ask_to_end()
        self._driver.end(time.monotonic() + _END)


def start(settings: Settings, models: Sequence[str] = (), *, port: int) -> RayServe:
    """Starts Ray Serve and returns when the endpoint answers; see serving.deployment.start."""
    token_for(settings.http.host)
    return RayServe(settings, models, port)
