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

from headrace import log as logs
from headrace.config.settings import FILE, Settings
from headrace.flows import running
from headrace.flows.children import Children
from headrace.flows.running import Up
from headrace.http.serve import bind, signalled
from headrace.http.token import token_for
from headrace.kernel.errors import Unavailable
from headrace.kernel.time import now
from headrace.serving.topics import own_contracts

__all__ = ["up"]

_logger = logging.getLogger(__name__)
_LOOK = 0.25  # seconds between two looks at what runs
_START = 60.0  # seconds that a child has to come up


def up(
    settings: Settings,
    ready: Callable[[Up], None] | None = None,
    stop: threading.Event | None = None,
    *,
    build_every: timedelta | None = None,
    report: Callable[[str], None] = _logger.warning,
) -> None:
    """Runs the project until `stop` is set, SIGTERM or Ctrl-C comes, and ends all that it began.

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
        _make_topics(settings)
        children = Children()
        stack.callback(children.end)
        children.start("ingest", settings)
        children.start("collector", settings, ports["collector_port"])
        children.start("console", settings, ports["console_port"])

        from headrace.serving import predict  # after the children's start: Ray takes its time

        endpoint = predict.start(settings, port=ports["predict_port"])
        stack.callback(endpoint.stop)
        stack.enter_context(_hearing(stop))  # Ray has put its own handler in place
        children.await_ready(_START)
        stack.callback(running.forget, settings)
        state = _written(settings, endpoint.url, ports, children)
        if ready is not None:
            ready(state)
        builds = _Builds(settings, build_every, report)
        stack.callback(builds.end)
        while not stop.wait(_LOOK):
            children.look(report)
            if children.processes != state.processes:
                state = _written(settings, endpoint.url, ports, children)
            builds.look()


def _written(settings: Settings, predict_url: str, ports: Mapping[str, int], children: Children) -> Up:
    """What runs, written down for the other verbs."""
    state = Up(
        pid=os.getpid(),
        started=now(),
        predict=predict_url,
        collector=_url(settings, ports["collector_port"]),
        console=_url(settings, ports["console_port"]),
        processes=children.processes,
    )
    running.keep(settings, state)
    return state


def _make_topics(settings: Settings) -> None:
    """The product's own topics must be there when the ingest looks which there are."""
    log = logs.open(settings.log_url)
    try:
        for contract in own_contracts():
            log.create(contract.topic, contract.partitions, contract.retention)
    finally:
        log.close()
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


def _url(settings: Settings, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.profile.host, settings.profile.host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _hearing(stop: threading.Event) -> Iterator[None]:
    """While the block runs, signals set `stop`, where this is the main thread."""
    import signal

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signalled(stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
