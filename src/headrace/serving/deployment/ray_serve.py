"""Replicas on Ray Serve, with HAProxy before them; the way for a cluster of machines."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.http.asgi import App
from headrace.http.serve import url_of
from headrace.http.token import is_loopback, token_for
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.ids import new_id
from headrace.serving import prediction_log, release
from headrace.serving.deployment import haproxy
from headrace.serving.prediction_log import Shipper
from headrace.training import cluster

__all__ = ["RayServe", "Replica", "environment", "start"]

_APPLICATION = "predict"
_READY = 60.0  # seconds until the endpoint must have answered
_ONGOING = 1_000  # requests that a replica may have in hand
_ASK = 2.0  # seconds between two looks whether it answers
_SILENT = 15.0  # seconds without an answer after which it is started again
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
        if is_loopback(settings.profile.host):
            _keep_to_loopback()
        from headrace.serving.endpoint import Endpoint
        from headrace.serving.models import Models

        spool = settings.place("serving", "spool")
        self._endpoint = Endpoint(Models(settings, names), spool, settings.profile.host)

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
    from ray.serve._private import replica

    opened: Any = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: opened(
        server, address.replace("[::]", "127.0.0.1")
    )


class RayServe:
    """Replicas on Ray Serve (serving.deployment.Deployment). Ray itself watches them; here it is asked whether
    the endpoint answers, and all of it is started again where it does not.

    The thread that makes this must live as long as it does.

    Attributes:
        url: the endpoint's address.
        shipper: moves its predictions to the log.
    """

    def __init__(self, settings: Settings, models: Sequence[str], port: int) -> None:
        token_for(settings.profile.host)
        self._settings, self._models, self._port = settings, tuple(models), port
        self.url = url_of(settings.profile.host, port)
        self._stack = ExitStack()
        with ExitStack() as stack:
            log = logs.open(settings.log_url)
            stack.callback(log.close)
            for topic in (release.TOPIC, prediction_log.TOPIC):
                log.create(topic)
            self.shipper = Shipper(settings.place("serving", "spool"), log)
            stack.callback(self.shipper.stop)
            self._ray = stack.enter_context(ExitStack())
            self._start()
            self._answered = time.monotonic()
            self._stop = threading.Event()
            asking = threading.Thread(target=self._ask, name="endpoint", daemon=True)
            asking.start()
            stack.callback(asking.join)
            stack.callback(self._stop.set)
            self._stack = stack.pop_all()

    @property
    def processes(self) -> dict[str, int]:
        """None: they are Ray's to look after."""
        return {}

    def look(self, report: Callable[[str], None]) -> None:
        """Starts all of it again where it has not answered for 15 s."""
        if time.monotonic() - self._answered < _SILENT:
            return
        report(f"the predict endpoint did not answer for {_SILENT:g} s: Ray Serve is started again")
        with suppress(Exception):  # what is dead already cannot be ended
            self._ray.close()
        try:
            self._start()
        except HeadraceError as error:
            report(f"the predict endpoint does not start: {error}")
        self._answered = time.monotonic()

    def roll(self, report: Callable[[str], None]) -> None:
        """Deploys the replicas anew; Serve replaces them one after the other."""
        try:
            self._deploy()
        except HeadraceError as error:
            report(f"the replicas were not deployed anew: {error}")
        else:
            report("the replicas were deployed anew")

    def stop(self) -> None:
        """Ends the replicas and HAProxy, ships what they have left, and ends Ray if it was started here."""
        self._stack.close()

    def _start(self) -> None:
        settings = self._settings
        with ExitStack() as stack:
            stack.enter_context(cluster.joined(settings, own=True, environment=environment(settings)))
            _serve(settings, self._port, stack)
            self._deploy()
            _await_answer(settings.profile.host, self._port)
            self._ray.push(stack.pop_all())

    def _deploy(self) -> None:
        _deploy(self._settings, self._models)

    def _ask(self) -> None:
        while not self._stop.wait(_ASK):
            if _answers(self.url):
                self._answered = time.monotonic()


def start(settings: Settings, models: Sequence[str] = (), *, port: int) -> RayServe:
    """Starts Ray Serve and returns when the endpoint answers; see serving.deployment.start."""
    return RayServe(settings, models, port)


def environment(settings: Settings) -> dict[str, str]:
    """The variables that Serve's workers need; who starts Ray for an endpoint gives it these."""
    return haproxy.environment(cluster.runtime_folder(settings), _free_port())


def _serve(settings: Settings, port: int, stack: ExitStack) -> None:
    """Starts Serve itself, without an application."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A Ray that runs already hands them to Serve's workers by an environment of their own: each is
    # then a process more, started in two steps.
    apart = {} if cluster.given() else {"runtime_env": {"env_vars": environment(settings)}}
    with _serve_errors(settings):
        serve.shutdown()  # what a killed process may have left in a Ray that lives on
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.profile.host, "port": port},
            logging_config=_QUIET,
            controller_options=apart,
        )
        stack.callback(serve.shutdown)


def _deploy(settings: Settings, models: Sequence[str]) -> None:
    from ray import serve

    deployment = serve.deployment(
        name="Replica",
        num_replicas=settings.profile.replicas,
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
            f"the predict endpoint does not start: {error}", where=str(cluster.runtime_folder(settings) / "ray")
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
