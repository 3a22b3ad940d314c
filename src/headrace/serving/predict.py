"""The predict endpoint: replicas on Ray Serve, with HAProxy before them, and the shipper beside them."""

from __future__ import annotations

import http.client
import logging
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.http.token import token_for
from headrace.kernel.errors import Unavailable
from headrace.serving import haproxy, prediction_log, release
from headrace.serving.prediction_log import Shipper
from headrace.serving.replica import Replica
from headrace.training import cluster

__all__ = ["Running", "environment", "start"]

_APPLICATION = "predict"
_READY = 60.0  # seconds until the endpoint must have answered
_ONGOING = 1_000  # requests that a replica may have in hand


class Running:
    """A predict endpoint that runs in this project's Ray until it is stopped.

    Attributes:
        url: its address.
        shipper: moves its predictions to the log.
    """

    def __init__(self, url: str, shipper: Shipper, stack: ExitStack) -> None:
        self.url = url
        self.shipper = shipper
        self._stack = stack

    def stop(self) -> None:
        """Ends the replicas and HAProxy, ships what they have left, and ends Ray if `start` began it."""
        self._stack.close()


def start(settings: Settings, models: Sequence[str] = (), *, port: int, replicas: int = 1) -> Running:
    """Starts the endpoint and returns when it answers. The calling thread must live as long as it does.

    Args:
        settings: of which project; its profile says the host.
        models: the models to answer for; empty: every model that is released, now or later.
        port: where to listen.
        replicas: how many processes answer.

    Raises:
        ProjectError: the host is not loopback and there is no token.
        Unavailable: Ray, the log or the endpoint does not come up.
    """
    token_for(settings.profile.host)
    with ExitStack() as stack:
        log = logs.open(settings.log_url)
        stack.callback(log.close)
        for topic in (release.TOPIC, prediction_log.TOPIC):
            log.create(topic)
        shipper = Shipper(settings.place("serving", "spool"), log)
        stack.callback(shipper.stop)
        stack.enter_context(cluster.joined(settings, own=True, environment=environment(settings)))
        _serve(settings, models, port, replicas, stack)
        _answering(settings.profile.host, port)
        return Running(_url(settings.profile.host, port), shipper, stack.pop_all())


def environment(settings: Settings) -> dict[str, str]:
    """The variables that Serve's workers need; who starts Ray for an endpoint gives it these."""
    return haproxy.environment(cluster.runtime_folder(settings), _free_port())


def _serve(settings: Settings, models: Sequence[str], port: int, replicas: int, stack: ExitStack) -> None:
    from ray import serve
    from ray.exceptions import RayError

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A Ray that runs already hands them to Serve's workers by an environment of their own: each is
    # then a process more, started in two steps.
    apart = {} if cluster.given() else {"runtime_env": {"env_vars": environment(settings)}}
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    deployment = serve.deployment(
        name="Replica",
        num_replicas=replicas,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": 0},  # a build beside it has the whole machine
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=quiet,
    )(serve.ingress()(Replica))
    try:
        serve.shutdown()  # what a killed process may have left in a Ray that lives on
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.profile.host, "port": port},
            logging_config=quiet,
            controller_options=apart,
        )
        stack.callback(serve.shutdown)
        serve.run(deployment.bind(settings, tuple(models)), name=_APPLICATION, route_prefix="/")
    except (RayError, RuntimeError, TimeoutError) as error:
        raise Unavailable(
            f"the predict endpoint does not start: {error}", where=str(cluster.runtime_folder(settings) / "ray")
        ) from error


def _answering(host: str, port: int) -> None:
    """Returns when /healthz answers."""
    deadline = time.monotonic() + _READY
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(_reached_at(host), port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise Unavailable(f"the predict endpoint does not answer within {_READY:.0f} s", where=_url(host, port))


def _url(host: str, port: int) -> str:
    reached = _reached_at(host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _reached_at(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
