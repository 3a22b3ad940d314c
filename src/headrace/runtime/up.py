"""up: runs the predict endpoint, the collector, the ingest and the console until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from headrace import log as logs
from headrace.config.settings import FILE, Settings
from headrace.http.serve import bind, stop_on_signals, url_of
from headrace.http.token import check_tokens
from headrace.kernel.children import Children
from headrace.kernel.errors import Unavailable
from headrace.kernel.ports import find_free_port
from headrace.kernel.time import now
from headrace.projects import running
from headrace.projects.running import Up
from headrace.runtime.child import start_child
from headrace.serving.kept import find_kept_releases
from headrace.serving.topics import system_contracts

if TYPE_CHECKING:
    from headrace.serving.deployment import Deployment

__all__ = ["up"]

_logger = logging.getLogger(__name__)
_INTERVAL = 0.25  # seconds between two checks of the children
_RETRY = 1.0  # seconds between two attempts to reach the log


def up(
    settings: Settings,
    ready: Callable[[Up], None] | None = None,
    stop: threading.Event | None = None,
    *,
    report: Callable[[str], None] = _logger.warning,
) -> None:
    """Runs the project until `stop`, SIGTERM or Ctrl-C, then ends all processes that it started.

    SIGUSR1 replaces each replica of the endpoint by a new process, one after the other.

    Args:
        settings: the settings of the project.
        ready: called with the addresses when every server answers.
        stop: set it in another thread to end. Signals are handled only in the main thread.
        report: called with a line about each process that died and was restarted.

    Raises:
        ProjectError: the host is not loopback and there is no token.
        Unavailable: another `up` runs on the project, a port is in use (the error names the setting), the log
            or the online store cannot be reached, or a process does not start.

    If the log cannot be reached, but releases were in force here before, the endpoint starts with them, and the
    other processes start when the log is back.
    """
    stop, rolling = stop or threading.Event(), threading.Event()
    check_tokens(settings.http.host, settings.token_paths)
    with running.hold_up_lock(settings), ExitStack() as stack:
        running.remove_up(settings)  # left behind by an `up` that was killed
        ports = _choose_ports(settings)
        stack.enter_context(_set_on_signals(stop))
        stack.enter_context(_set_on_roll_signal(rolling))
        has_log = stack.enter_context(_create_topics(settings, report))
        _check_online_store(settings)
        children = Children()
        stack.callback(children.end)
        has_children = has_log.is_set() and _start_children(children, settings, ports)

        from headrace.serving import deployment  # its imports take long, and the children start meanwhile

        endpoint = deployment.start(settings, port=ports["predict_port"], stop=stop)
        stack.callback(endpoint.stop)
        stack.enter_context(_set_on_signals(stop))  # Ray may have installed its own handler
        children.await_ready(stop)
        if stop.is_set():
            return
        stack.callback(running.remove_up, settings)
        state = _write_state(settings, endpoint, ports, children)
        if ready is not None:
            ready(state)
        while not stop.wait(_INTERVAL):
            if has_log.is_set() and not has_children:
                report("the log can be reached: the other processes start")
                has_children = _start_children(children, settings, ports)
            state = _supervise(settings, endpoint, ports, children, state, report)
            if rolling.is_set():
                rolling.clear()
                endpoint.roll(report)


def _supervise(
    settings: Settings,
    endpoint: Deployment,
    ports: Mapping[str, int],
    children: Children,
    state: Up,
    report: Callable[[str], None],
) -> Up:
    """Replaces processes that have died or hang. Returns the state, written anew if a process changed."""
    children.supervise(report)
    endpoint.supervise(report)
    if children.processes | endpoint.processes != state.processes:
        try:
            state = _write_state(settings, endpoint, ports, children)
        except OSError as error:  # the disk is full: everything goes on, and the next round tries again
            _logger.debug("the record of this `up` cannot be written: %s", error)
    return state


def _write_state(settings: Settings, endpoint: Deployment, ports: Mapping[str, int], children: Children) -> Up:
    """Writes the addresses and process ids for the other commands to read."""
    host = settings.http.host
    state = Up(
        pid=os.getpid(),
        started=now(),
        predict=endpoint.url,
        collector=url_of(host, ports["collector_port"]),
        console=url_of(host, ports["console_port"]),
        processes=children.processes | endpoint.processes,
    )
    running.write_up(settings, state)
    return state


def _start_children(children: Children, settings: Settings, ports: Mapping[str, int]) -> Literal[True]:
    children.add(start_child("ingest", settings))
    children.add(start_child("collector", settings, ports["collector_port"]))
    children.add(start_child("console", settings, ports["console_port"]))
    if settings.schedules:
        children.add(start_child("scheduler", settings))
    return True


@contextmanager
def _create_topics(settings: Settings, report: Callable[[str], None]) -> Iterator[threading.Event]:
    """Creates Headrace's own topics, which must exist when the ingest lists the topics to follow.

    Yields:
        Set when they exist: at once, or, if releases were in force here before, when the log is back.

    Raises:
        Unavailable: the log cannot be reached, and there is no release to answer by.
    """
    has_log, is_ending = threading.Event(), threading.Event()

    def create() -> None:
        with closing(logs.open(settings.log.url)) as log:
            for contract in system_contracts():
                log.create(contract.topic, contract.partitions, contract.retention)
        has_log.set()

    def create_later() -> None:
        while not has_log.is_set() and not is_ending.wait(_RETRY):
            with suppress(Unavailable):
                create()

    try:
        create()
    except Unavailable as error:
        if not find_kept_releases(settings).exists():
            raise
        report(f"the log cannot be reached, so only the endpoint starts, with its last releases: {error.what}")
        threading.Thread(target=create_later, name="topics", daemon=True).start()
    try:
        yield has_log
    finally:
        is_ending.set()


def _check_online_store(settings: Settings) -> None:
    """Checks that a store on another server answers: later, its absence is an error of each request alone."""
    if not settings.online.is_local:
        from headrace.features import online

        with closing(online.open(settings)) as store:
            store.views()


def _choose_ports(settings: Settings) -> dict[str, int]:
    """Setting → a port that is free now. If the setting is 0, any.

    Raises:
        Unavailable: a port is in use; the error names the port and the setting.
    """
    ports = {}
    for name in ("predict_port", "collector_port", "console_port"):
        port = getattr(settings.http, name)
        try:
            bind(settings.http.host, port).close()
            ports[name] = port or find_free_port(settings.http.host)
        except Unavailable as error:
            raise Unavailable(
                error.what,
                where=f"{settings.root / FILE}: profile.{settings.profile_name}.{name} = {port}",
                remedy=f"End the process that listens there, or set {name} to another port (0: any free port).",
            ) from error
    return ports


@contextmanager
def _set_on_signals(stop: threading.Event) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT set the event. Does nothing outside the main thread."""
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
def _set_on_roll_signal(rolling: threading.Event) -> Iterator[None]:
    """While the block runs, SIGUSR1 sets the event. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: rolling.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
