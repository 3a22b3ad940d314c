"""up: the predict endpoint, the collector, the ingest and the console, until it is told to stop."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace import log as logs
from headrace.config.settings import FILE, Settings
from headrace.http.serve import bind, stop_on_signals, url_of
from headrace.http.token import token_for
from headrace.kernel.children import Child, Children
from headrace.kernel.errors import Unavailable
from headrace.kernel.private import user_umask
from headrace.kernel.time import now
from headrace.projects import running
from headrace.projects.running import Up
from headrace.serving.topics import system_contracts

if TYPE_CHECKING:
    from headrace.serving.deployment import Deployment

__all__ = ["up"]

_logger = logging.getLogger(__name__)
_LOOK = 0.25  # seconds between two looks at what runs


def up(
    settings: Settings,
    ready: Callable[[Up], None] | None = None,
    stop: threading.Event | None = None,
    *,
    build_every: timedelta | None = None,
    report: Callable[[str], None] = _logger.warning,
) -> None:
    """Runs the project until `stop` is set, SIGTERM or Ctrl-C comes, and ends all that it began. SIGUSR1 puts a
    new process in the place of each replica, one after the other.

    Args:
        settings: of which project.
        ready: is told the addresses once everything answers.
        stop: set it to end. Signals are heard where this is called from the main thread.
        build_every: how often `headrace build` is run beside; None: never.
        report: is told, a line each, what died and was started again.

    Raises:
        ProjectError: the host is not loopback and there is no token.
        Unavailable: another `up` runs here, a port is in use (it names the setting), or something
            does not come up.
    """
    stop = stop or threading.Event()
    token_for(settings.profile.host)
    with running.locked(settings), ExitStack() as stack:
        running.forget(settings)  # what a killed one may have left
        ports = _ports(settings)
        stack.enter_context(_hearing(stop))
        rolling = threading.Event()
        stack.enter_context(_on_roll(rolling))
        _make_topics(settings)
        children = Children()
        stack.callback(children.end)
        children.add(_child("ingest", settings))
        children.add(_child("collector", settings, ports["collector_port"]))
        children.add(_child("console", settings, ports["console_port"]))

        from headrace.serving import deployment  # after the children's start: it takes its time

        endpoint = deployment.start(settings, port=ports["predict_port"])
        stack.callback(endpoint.stop)
        stack.enter_context(_hearing(stop))  # Ray may have put its own handler in place
        children.await_ready()
        stack.callback(running.forget, settings)
        state = _written(settings, endpoint, ports, children)
        if ready is not None:
            ready(state)
        builds = _Builds(settings, build_every, report)
        stack.callback(builds.end)
        while not stop.wait(_LOOK):
            children.look(report)
            endpoint.look(report)
            if rolling.is_set():
                rolling.clear()
                endpoint.roll(report)
            if children.processes | endpoint.processes != state.processes:
                state = _written(settings, endpoint, ports, children)
            builds.look()


def _child(name: str, settings: Settings, port: int = 0) -> Child:
    """One of flows.child's processes, started."""
    command = [
        sys.executable,
        "-m",
        "headrace.runtime.child",
        name,
        str(settings.root),
        settings.profile_name,
        str(port),
    ]
    environment = {**os.environ, "HEADRACE_STATE": str(settings.state.parent)}
    return Child(name, command, settings.place("up", f"{name}.log"), environment)


def _written(settings: Settings, endpoint: Deployment, ports: Mapping[str, int], children: Children) -> Up:
    """What runs, written down for the other verbs."""
    host = settings.profile.host
    state = Up(
        pid=os.getpid(),
        started=now(),
        predict=endpoint.url,
        collector=url_of(host, ports["collector_port"]),
        console=url_of(host, ports["console_port"]),
        processes=children.processes | endpoint.processes,
    )
    running.keep(settings, state)
    return state


def _make_topics(settings: Settings) -> None:
    """The product's own topics must be there when the ingest looks which there are."""
    log = logs.open(settings.log_url)
    try:
        for contract in system_contracts():
            log.create(contract.topic, contract.partitions, contract.retention)
    finally:
        log.close()


def _ports(settings: Settings) -> dict[str, int]:
    """The doors' ports, each free just now; 0 becomes a free one.

    Raises:
        Unavailable: a port is in use; it names the port and the setting.
    """
    ports = {}
    for name in ("predict_port", "collector_port", "console_port"):
        wanted = getattr(settings.profile, name)
        try:
            with bind(settings.profile.host, wanted) as probe:
                ports[name] = probe.getsockname()[1]
        except Unavailable as error:
            raise Unavailable(
                error.what,
                where=f"{settings.root / FILE}: profile.{settings.profile_name}.{name} = {wanted}",
                remedy=f"End what listens there, or set {name} to another port (0 takes a free one).",
            ) from error
    return ports


@contextmanager
def _hearing(stop: threading.Event) -> Iterator[None]:
    """While the block runs, signals set `stop`, where this is the main thread."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop_on_signals(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _on_roll(rolling: threading.Event) -> Iterator[None]:
    """While the block runs, SIGUSR1 sets `rolling`, where this is the main thread."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: rolling.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class _Builds:
    """`headrace build` in a process of its own, every so often; never two at once."""

    def __init__(self, settings: Settings, every: timedelta | None, report: Callable[[str], None]) -> None:
        self._settings, self._every, self._report = settings, every, report
        self._process: subprocess.Popen[bytes] | None = None
        self._due = time.monotonic() + every.total_seconds() if every else None

    def look(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            if code != 0:
                self._report(f"the build ended (exit {code}); see {self._settings.place('up', 'build.log')}")
            self._process = None
        if self._due is None or self._every is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every.total_seconds()
        options = ["--project", str(self._settings.root), "--profile", self._settings.profile_name]
        with self._settings.place("up", "build.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "headrace.cli.main", "build", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, umask=user_umask(),
            )  # fmt: skip

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
