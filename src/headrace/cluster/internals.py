"""What Headrace uses of Ray beyond its public interface, and the versions of Ray that have it.

Every use calls `kernel.foreign.check_version` first, so that another version of Ray gives a clear error.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from headrace.kernel.foreign import check_version

__all__ = [
    "INTERNALS",
    "Internal",
    "find_dead_daemons",
    "keep_replica_on_loopback",
    "log_worker_output",
    "set_version",
    "use_token",
]

_logger = logging.getLogger(__name__)


class Internal(NamedTuple):
    """A name that Ray does not promise to keep.

    Attributes:
        module: the module that has it.
        name: its name in the module; a dotted name is an attribute of a class.
        use: what Headrace uses it for.
        parameters: if it is called, the parameters that Headrace passes by position, in order.
    """

    module: str
    name: str
    use: str
    parameters: tuple[str, ...] = ()


INTERNALS = (
    Internal("ray._private.worker", "print_to_stdstream", "workers' output goes to the log"),
    Internal("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", "Ray listens on loopback alone"),
    Internal("ray._raylet", "Config.initialize", "a Ray that is already imported accepts tokens"),
    Internal("ray._raylet", "AuthenticationTokenLoader.instance", "the project's token is read again"),
    Internal(
        "ray._private.services",
        "start_ray_process",
        "the raylet starts lean_agent",
        ("command", "process_type"),
    ),
    Internal("ray._private.worker", "_global_node", "the daemons that this process started"),
    Internal("ray._private.node", "Node.dead_processes", "a daemon that died is noticed"),
    Internal("ray._private.node", "Node.start_api_server", "no API server is started"),
    Internal("ray._private.node", "Node.start_monitor", "no autoscaler is started"),
    Internal("ray._private.node", "Node.start_log_monitor", "no log monitor is started"),
    Internal("ray.train.v2.api.data_parallel_trainer", "DataParallelTrainer", "the final fit in this process"),
    Internal(
        "ray.serve._private.replica",
        "add_port_to_grpc_server",
        "a replica opens its gRPC port on loopback",
        ("server", "address"),
    ),
    Internal("ray.serve", "Deployment.options", "unchanged models keep their replicas"),
    Internal("ray.serve._private.constants", "RAY_SERVE_HAPROXY_BINARY_PATH", "our wrapper starts HAProxy"),
    Internal(
        "ray.serve._private.haproxy", "HAProxyApi", "the wrapper restricts the listeners in its configuration"
    ),
)
"""Used where Ray is started (connection, lean), by training's final fit, and by serving's driver."""


def log_worker_output() -> None:
    """Makes Ray log what workers print, so that it does not appear among a command's results."""
    from ray._private import worker

    worker.print_to_stdstream = _log_lines


def _log_lines(batch: dict[str, Any], *_: object, **__: object) -> None:
    _logger.info("%s", "\n".join(batch["lines"]))


def use_token() -> None:
    """Makes Ray ask for the project's token and listen on loopback, even if it was imported before the
    environment was set, for example by a notebook."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize('{"AUTH_MODE": "token"}')
    AuthenticationTokenLoader.instance().reset_cache()  # it may hold another project's token


def find_dead_daemons() -> list[str]:
    """Ray's names of the daemons that this process started and that have died, such as raylet or gcs_server.

    Raises:
        Unavailable: Ray is another version.
    """
    check_version("ray")
    from ray._private import worker

    node = worker._global_node
    return [name for name, _ in node.dead_processes()] if node else []


def keep_replica_on_loopback() -> None:
    """Makes a Serve replica open its gRPC port, which deployments use to call each other, on loopback.

    Ray opens it on every address and has no setting for that.

    Raises:
        Unavailable: Ray is another version.
    """
    check_version("ray")
    from ray.serve._private import replica

    add_port: Any = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(
        server, address.replace("[::]", "127.0.0.1")
    )


def set_version(deployment: Any, version: str) -> Any:
    """The Serve deployment with a version. Serve keeps replicas of the same version when it is deployed again.

    Without a version, which Ray's public interface no longer takes, each deployment replaces all replicas.

    Raises:
        Unavailable: Ray is another version.
    """
    check_version("ray")
    return deployment.options(version=version, _internal=True)
