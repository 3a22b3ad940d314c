"""The driver of Ray Serve: `python -m headrace.serving.deployment.ray_driver ROOT PROFILE PORT [MODEL ...]`.

It starts the project's Ray, or joins the cluster of the profile, deploys the replicas with HAProxy before them,
and says that it is alive as long as the endpoint answers.
"""

from __future__ import annotations

import http.client
import logging
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.cluster import connection as cluster
from headrace.cluster.folder import runtime_folder
from headrace.cluster.internals import check_version
from headrace.config.settings import Settings, load_settings
from headrace.http.asgi import App
from headrace.http.serve import stop_on_signals, url_of
from headrace.http.token import is_loopback
from headrace.kernel.child import end_with_parent, report_alive, report_ready
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.secrets import clean_text
from headrace.serving.deployment import haproxy

__all__ = ["Replica", "main"]

_APPLICATION = "predict"
_READY = 60.0  # seconds until the endpoint must have answered
_ONGOING = 1_000  # requests that a replica may have in hand
_ASK = 2.0  # seconds between two looks whether it answers
_SETTLED = 1.5  # seconds for which one connection must have answered
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class Replica:
    """What Ray Serve runs. `serve.ingress()` takes the application from it.

    Args:
        settings: of which project.
        names: the models to answer for; empty: every model that is released.
        generation: Serve replaces replicas whose arguments change.
    """

    def __init__(self, settings: Settings, names: Sequence[str], generation: str) -> None:  # noqa: ARG002
        if is_loopback(settings.http.host):
            _keep_to_loopback()
        from headrace.serving.endpoint import Endpoint
        from headrace.serving.models import Models

        spool = settings.place("serving", "spool")
        self._endpoint = Endpoint(Models(settings, names), spool, settings.http.host)

    def __serve_build_asgi_app__(self) -> App:
        return self._endpoint.app

    def __del__(self) -> None:
        endpoint = getattr(self, "_endpoint", None)
        if endpoint is not None:
            endpoint.close()


def _keep_to_loopback() -> None:
    """Ray Serve opens a gRPC port of a replica, for handles between deployments, on every address.

    There is no setting for it. No handle is used here; the port is opened after this on loopback.
    """
    check_version()
    from ray.serve._private import replica

    opened: Any = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: opened(
        server, address.replace("[::]", "127.0.0.1")
    )


def _roll(settings: Settings, models: Sequence[str]) -> None:
    """Deploys the replicas anew; where that fails, those that answer go on."""
    try:
        _deploy(settings, models)
    except HeadraceError as error:
        _say(error)


def _say(error: HeadraceError) -> None:
    print(clean_text(str(error).replace("\n ", "")), file=sys.stderr)  # noqa: T201  the child's log


def main(root: str, profile: str, port: int, models: Sequence[str]) -> int:
    """Runs Ray Serve until it is told to end; returns the exit code."""
    stop, rolling = stop_on_signals(), threading.Event()
    end_with_parent()
    try:
        settings = load_settings(Path(root), profile)
        environment = haproxy.environment(runtime_folder(settings), _free_port())
        with cluster.connect(settings, own=True, environment=environment), _served(settings, port, environment):
            stop_on_signals(stop)  # Ray has put its own handlers in place
            signal.signal(signal.SIGUSR1, lambda *_: rolling.set())
            _deploy(settings, models)
            _await_answer(settings.http.host, port)
            report_ready()
            while not stop.wait(_ASK):
                if rolling.is_set():
                    rolling.clear()
                    _roll(settings, models)
                if _answers(url_of(settings.http.host, port)):
                    report_alive()
    except HeadraceError as error:
        _say(error)
        return error.exit_code
    except Exception:
        print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


@contextmanager
def _served(settings: Settings, port: int, environment: dict[str, str]) -> Iterator[None]:
    """While the block runs, Serve runs, without an application."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A Ray that runs already hands them to Serve's workers by an environment of their own: each is
    # then a process more, started in two steps.
    apart = {} if cluster.worker_variables() else {"runtime_env": {"env_vars": environment}}
    with _serve_errors(settings):
        serve.shutdown()  # what a killed process may have left in a Ray that lives on
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.http.host, "port": port},
            logging_config=_QUIET,
            controller_options=apart,
        )
    try:
        yield
    finally:
        serve.shutdown()


def _deploy(settings: Settings, models: Sequence[str]) -> None:
    from ray import serve

    deployment = serve.deployment(
        name="Replica",
        num_replicas=settings.serving.replicas,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": 0},  # a build beside it has the whole machine
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=_QUIET,
        max_surge_percent=100,  # when they are replaced, an old one answers until the new one does
    )(serve.ingress()(Replica))
    with _serve_errors(settings):
        serve.run(deployment.bind(settings, tuple(models), new_id()), name=_APPLICATION, route_prefix="/")


@contextmanager
def _serve_errors(settings: Settings) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, TimeoutError) as error:
        raise Unavailable(
            f"the predict endpoint does not start: {error}", where=str(runtime_folder(settings) / "ray")
        ) from error


def _await_answer(host: str, port: int) -> None:
    """Returns when /healthz answers over one connection that stays open for a while: each time Serve's
    controller tells of a change, HAProxy is loaded anew, which closes the connections it has.

    Raises:
        Unavailable: it takes too long.
    """
    deadline = time.monotonic() + _READY
    url = url_of(host, port)
    while time.monotonic() < deadline:
        if _answers(url, for_seconds=_SETTLED):
            return
        time.sleep(0.05)
    raise Unavailable(f"the predict endpoint does not answer within {_READY:.0f} s", where=url)


def _answers(url: str, for_seconds: float = 0.0) -> bool:
    """Whether /healthz answers 200 on one connection, again and again for so long."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    until = time.monotonic() + for_seconds
    try:
        connection.connect()
        connection.auto_open = 0  # a connection that was closed is not opened again
        while True:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                return False
            if time.monotonic() >= until:
                return True
            time.sleep(0.1)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
