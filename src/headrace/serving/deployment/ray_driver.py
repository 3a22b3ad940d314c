"""The driver of Ray Serve: `python -m headrace.serving.deployment.ray_driver ROOT PROFILE PORT [MODEL ...]`.

It starts the project's Ray, or joins the profile's cluster, and deploys the replicas behind HAProxy. It reports
that it is alive as long as the endpoint answers.
"""

from __future__ import annotations

import http.client
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from headrace.cluster import connection as cluster
from headrace.cluster.folder import runtime_folder
from headrace.cluster.internals import find_dead_daemons, keep_replica_on_loopback, set_version
from headrace.config.serving import ServingSettings
from headrace.config.settings import Settings, load_settings
from headrace.http.asgi import App
from headrace.http.serve import stop_on_signals, url_of
from headrace.http.token import is_loopback
from headrace.kernel.child import end_with_parent, log_error, report_alive, report_ready, run_work
from headrace.kernel.errors import HeadraceError, Refused, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.ports import find_free_port
from headrace.serving.deployment.haproxy import drain, serve_environment
from headrace.serving.deployment.ray_watch import ENDPOINT, EndpointWatch
from headrace.serving.deployment.replica import DRAIN, GRACE, open_models, shorten_turns
from headrace.serving.mlflow_models.model_set import ModelSet
from headrace.serving.mlflow_models.ray_deployments import bind_model, find_problems, make_ask
from headrace.serving.mlflow_models.served import FollowedModelSet, ServedModels
from headrace.serving.mlflow_models.states import read_problems, write_problems

__all__ = ["RayServeReplica", "await_answer", "find_scaling", "run_driver"]

_LONGEST_START = 60.0  # seconds within which the endpoint must answer
_MORE_ONGOING = 1_000  # requests that Serve may give to a replica beyond its own limit, which answers 429
_SHORTEST_RETRY, _LONGEST_RETRY = 15.0, 240.0  # seconds between two attempts at models whose start failed
_INTERVAL = 2.0  # seconds between two checks that the endpoint answers
_DAEMON_INTERVAL = 0.5  # seconds between two checks that Ray's daemons run
_SETTLED = 1.5  # seconds for which one connection must keep answering
_LONGEST_LOOK_BACK = 30.0  # seconds over which the requests in progress are averaged
_METRICS_INTERVAL = 1.0  # seconds between two reports of a replica; Serve's default is 10
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class RayServeReplica:
    """The replica that Ray Serve runs. `serve.ingress()` gets its ASGI application from it.

    Args:
        settings: the project's settings.
        names: the models to predict; empty for every model that is released.
        deployments: those of MLflow models. Serve deploys what the endpoint is given. The endpoint asks them by
            name, because they change while it runs.
    """

    def __init__(self, settings: Settings, names: Sequence[str], deployments: Sequence[object]) -> None:  # noqa: ARG002
        shorten_turns()
        if is_loopback(settings.http.host):
            keep_replica_on_loopback()
        from headrace.serving.endpoint import Endpoint
        from headrace.serving.tracing import open_tracer

        served = ServedModels(settings, make_ask(_application_of(settings)))
        self._endpoint = Endpoint(
            open_models(settings, names, served),
            settings.place("serving"),
            settings.http.host,
            token_files=settings.token_paths,
            open_metrics=settings.http.open_metrics,
            tracer=open_tracer(settings),
        )

    def __serve_build_asgi_app__(self) -> App:
        return self._endpoint.app

    def __del__(self) -> None:
        endpoint = getattr(self, "_endpoint", None)
        if endpoint is not None:
            endpoint.close()


def run_driver(root: str, profile: str, port: int, models: Sequence[str], stop: threading.Event) -> None:
    """Runs Ray Serve until `stop` is set."""
    settings, roll = load_settings(Path(root), profile), threading.Event()
    environment = serve_environment(runtime_folder(settings), find_free_port())
    with cluster.connect(settings, own=True, environment=environment):
        stop_on_signals(stop)  # Ray has replaced the handlers; HAProxy answers before Serve's start returns
        signal.signal(signal.SIGUSR1, lambda *_: roll.set())
        with (
            _end_without_daemons(),
            _run_serve(settings, port, environment),
            closing(FollowedModelSet(settings)) as followed,
        ):
            generation, deployed, attempts = new_id(), followed.current, Attempts()
            _deploy(settings, models, deployed, generation, attempts)
            await_answer(settings.http.host, port, stop)
            report_ready()
            watch = EndpointWatch(_application_of(settings))
            while not stop.wait(_INTERVAL):
                followed.poll()
                is_due = deployed is not None and _report_problems(settings, deployed, attempts)
                if roll.is_set() or followed.current != deployed or is_due:
                    generation, deployed = new_id() if roll.is_set() else generation, followed.current
                    roll.clear()
                    _redeploy(settings, models, deployed, generation, attempts)
                does_answer = _does_answer(url_of(settings.http.host, port))
                if does_answer:
                    report_alive()
                watch.check(does_answer=does_answer)


@contextmanager
def _end_without_daemons() -> Iterator[None]:
    """Ends this process if a daemon of its Ray dies while the block runs; `up` then reports it and starts both.

    Replicas go on answering for a while, but none is replaced or deployed any more. The process ends at once,
    because Ray waits for minutes when it is to shut down without them. A thread finds it out, because without
    its control service Ray's calls do not return.
    """
    done = threading.Event()

    def check() -> None:
        while not done.wait(_DAEMON_INTERVAL):
            dead = find_dead_daemons()
            if dead:
                log_error(Unavailable(f"Ray's {' and '.join(dead)} died"))
                os._exit(1)

    checker = threading.Thread(target=check, name="Ray's daemons", daemon=True)
    checker.start()
    try:
        yield
    finally:
        done.set()
        checker.join()


class Attempts:
    """How often each MLflow model was tried again after Serve gave it up: it tries a few times at once only."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self._due, self._pause = 0.0, _SHORTEST_RETRY  # monotonic, seconds

    def count(self, failed: Collection[str]) -> bool:
        """Counts another attempt at the models whose start failed. Returns whether it is due."""
        if not failed or time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_RETRY)
        self.numbers.update(failed)
        return True


def _redeploy(
    settings: Settings, models: Sequence[str], deployed: ModelSet | None, generation: str, attempts: Attempts
) -> None:
    """Replaces the replicas that must be. If that fails, the old ones continue."""
    try:
        _deploy(settings, models, deployed, generation, attempts)
    except HeadraceError as error:
        log_error(error)


@contextmanager
def _run_serve(settings: Settings, port: int, environment: dict[str, str]) -> Iterator[None]:
    """Runs Serve, without an application, while the block runs."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # A Ray that runs already passes the variables to Serve's workers by a runtime environment. That costs one
    # more process for each worker.
    options = {} if cluster.worker_variables() else {"runtime_env": {"env_vars": environment}}
    with _convert_errors(settings):
        if others := _find_other_applications(settings):
            raise Refused(
                f"Ray Serve runs {' and '.join(others)} on this cluster, and has one port for all that it runs",
                where=f"headrace.toml: profile.{settings.profile_name}.ray",
                remedy="Name another cluster, or end what runs there: serve shutdown.",
            )
        serve.shutdown()  # what a killed driver may have left in a Ray that still runs
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": settings.http.host, "port": port},
            logging_config=_QUIET,
            controller_options=options,
        )
    try:
        yield
    finally:
        # The replicas end first, while HAProxy answers 503 to what comes. If HAProxy ended first, Serve would
        # miss it, and kill it after a second with the answers that its clients wait for.
        serve.delete(_application_of(settings))
        if not _find_other_applications(settings):
            drain(runtime_folder(settings), DRAIN)
            serve.shutdown()


def _application_of(settings: Settings) -> str:
    """The name of the endpoint's application on Serve. That of another project has another name."""
    return f"predict-{settings.project}-{settings.profile_name}"


def _find_other_applications(settings: Settings) -> list[str]:
    """The applications on Serve of other projects and programs; none on a Ray that was started here."""
    if settings.cluster.is_local:
        return []
    from ray import serve

    return sorted(serve.status().applications.keys() - {_application_of(settings)})


def _deploy(
    settings: Settings, models: Sequence[str], deployed: ModelSet | None, generation: str, attempts: Attempts
) -> None:
    """Deploys the endpoint and the MLflow models as one application; returns when it is under way.

    Args:
        generation: replicas of the endpoint are replaced if it changes.
        attempts: how often the MLflow models were tried again.
    """
    from ray import serve

    deployment = serve.deployment(
        name=ENDPOINT,
        **find_scaling(settings.serving),
        max_ongoing_requests=settings.serving.max_requests + _MORE_ONGOING,
        ray_actor_options={"num_cpus": 0},  # a build at the same time may use the whole machine
        health_check_period_s=1,  # by default a dead replica is noticed after up to 10 s
        graceful_shutdown_timeout_s=GRACE,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=_QUIET,
        max_surge_percent=100,  # an old replica answers until the new one does
    )(serve.ingress()(RayServeReplica))
    with _convert_errors(settings):
        bound = [
            bind_model(settings, model, attempts.numbers[model.name], _QUIET)
            for model in (deployed.models if deployed else [])
        ]
        application = set_version(deployment, generation).bind(settings, tuple(models), bound)
        target = serve.RunTarget(application, name=_application_of(settings), route_prefix="/")
        # A model that does not start must not delay the others.
        serve.run_many([target], wait_for_applications_running=False)


def find_scaling(serving: ServingSettings) -> dict[str, Any]:
    """The options of Serve's deployment for the number of replicas.

    Serve compares the mean of the requests in progress over a look-back period. The period must have passed
    when a replica ends: otherwise the load that it was started for is still in the mean, and it is started
    again.
    """
    if serving.max_replicas is None:
        return {"num_replicas": serving.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": serving.replicas,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.target_ongoing_requests,
            "upscale_delay_s": serving.upscale_delay,
            "downscale_delay_s": serving.downscale_delay,
            "look_back_period_s": min(_LONGEST_LOOK_BACK, serving.downscale_delay / 2),
            "metrics_interval_s": _METRICS_INTERVAL,
        }
    }


def _report_problems(settings: Settings, deployed: ModelSet, attempts: Attempts) -> bool:
    """Writes which MLflow models Serve cannot run. Returns whether one of them is to be tried again."""
    with _convert_errors(settings):
        problems = find_problems(_application_of(settings))
    if problems != read_problems(settings, deployed.id):
        write_problems(settings, deployed.id, problems)
    return attempts.count([name for name, problem in problems.items() if problem.has_failed])


@contextmanager
def _convert_errors(settings: Settings) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, TimeoutError) as error:
        cause = getattr(error, "cause", None) or error  # without the traceback of Ray's process
        raise Unavailable(
            f"the predict endpoint does not start: {cause}", where=str(runtime_folder(settings) / "ray")
        ) from error


def await_answer(host: str, port: int, stop: threading.Event) -> None:
    """Returns when /healthz answers over one connection that stays open for a while, or `stop` is set.

    Each time Serve's controller reports a change, HAProxy is reloaded, which closes its connections.

    Raises:
        Unavailable: it takes too long.
    """
    deadline = time.monotonic() + _LONGEST_START
    url = url_of(host, port)
    while time.monotonic() < deadline:
        if stop.is_set() or _does_answer(url, for_seconds=_SETTLED):
            return
        time.sleep(0.05)
    raise Unavailable(f"the predict endpoint does not answer within {_LONGEST_START:.0f} s", where=url)


def _does_answer(url: str, for_seconds: float = 0.0) -> bool:
    """Whether /healthz keeps answering 200 on one connection for this long."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=5)
    until = time.monotonic() + for_seconds
    try:
        connection.connect()
        connection.auto_open = 0  # a connection that the server closed is not opened again
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


def _main() -> int:
    stop = stop_on_signals()
    end_with_parent()
    root, profile, port, *models = sys.argv[1:]
    return run_work(lambda: run_driver(root, profile, int(port), models, stop))


if __name__ == "__main__":
    sys.exit(_main())
