"""Connects to the project's Ray: a command joins the running one, or starts one. No other module starts Ray.

A local Ray listens on loopback alone, and keeps its files in a private folder (`runtime_folder`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.cluster.address import find_address, forget_address, keep_address
from headrace.cluster.folder import remove_dead_sessions, runtime_folder
from headrace.cluster.internals import log_worker_output, use_token
from headrace.cluster.lean import skip_unused_processes
from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import create_file
from headrace.kernel.foreign import check_version
from headrace.kernel.lock import hold_lock

__all__ = ["connect", "ensure_token", "worker_variables"]

_OBJECT_STORE = 512 << 20  # bytes
# Ray listens on every address where a cluster may span machines, and on 127.0.0.1 where it may not. The first
# variable forbids it (on Windows and macOS, as its name says, that is Ray's default). Ray reads the variables
# when it is imported, and its child processes read them again.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # By default workers run at niceness 15, and a replica would wait for a build. Trials raise their own.
    "RAY_worker_niceness": "0",
}
_TIMED_OUT = "timed out during startup"  # part of the bare Exception that Ray raises if its daemons are slow
_REACHABLE_SECONDS = 10
_in_process = threading.Lock()
_worker_variables: dict[str, str] = {}


@contextmanager
def connect(
    settings: Settings, *, own: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Connects this process to the project's Ray while the block runs.

    A process that is already connected stays connected after the block. Otherwise it joins the profile's
    cluster, or the Ray that another command of this project started, or starts a Ray that ends with the block.

    Args:
        settings: the project's settings.
        own: starts a Ray and joins none, because another command's Ray ends when that command does.
        environment: variables for the workers of a Ray that is started here (`worker_variables`).

    Raises:
        Unavailable: Ray does not start or is another version, or the profile's cluster does not answer.
    """
    ray = _import_ray(settings)
    with _in_process:
        connected_before = ray.is_initialized()
        is_starter = not connected_before and _join_or_start(ray, settings, own, environment or {})
    try:
        yield
    finally:
        if not connected_before:
            ray.shutdown()
            _worker_variables.clear()
        if is_starter:
            forget_address(settings)


def worker_variables() -> Mapping[str, str]:
    """The variables that the workers of the Ray started by this process received."""
    return _worker_variables


def _import_ray(settings: Settings) -> ModuleType:
    """Imports Ray, after it has set the environment that Ray reads at its import."""
    check_version("ray")
    local = settings.cluster.is_local
    # Ray would print the errors of further tasks, when the first has ended the command.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if local:
        os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(ensure_token(settings)))
    import ray

    log_worker_output()
    if local:
        use_token()
    return ray  # type: ignore[no-any-return]


def ensure_token(settings: Settings) -> Path:
    """Makes the file (0600) with the token that Ray demands of each connection, unless it exists."""
    path = settings.make_state() / "ray.token"
    create_file(path, secrets.token_hex(32), mode=0o600)
    return path


def _join_or_start(ray: ModuleType, settings: Settings, own: bool, environment: Mapping[str, str]) -> bool:
    """Joins a running Ray or starts one; returns whether it was started."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if not settings.cluster.is_local:
        try:
            _check_address(settings.cluster.address)
            ray.init(address=settings.cluster.address, **quiet)
        except (OSError, RuntimeError) as error:
            raise Unavailable(
                f"the Ray cluster does not answer: {error}",
                where=f"profile.{settings.profile_name}.ray: {settings.cluster.address}",
                remedy='Start the cluster, or correct the address; ray = "local" starts a Ray on this machine.',
            ) from error
        return False
    with hold_lock(settings.make_state() / "ray.lock"):  # commands that begin together start one Ray
        address = None if own else find_address(settings)
        if address is not None:
            with suppress(ConnectionError, RuntimeError):  # it may be shutting down
                ray.init(address=address, **quiet)
                return False
        folder = runtime_folder(settings) / "ray"  # within ours, because Ray lets every user read its folder
        remove_dead_sessions(folder)
        with skip_unused_processes(), _set_variables(environment):
            _start(ray, folder, quiet)
        _worker_variables.update(environment)
        keep_address(settings, ray.get_runtime_context().gcs_address)
    return True


def _check_address(address: str) -> None:
    """Raises OSError if nothing accepts connections at HOST:PORT, or ray://HOST:PORT: Ray would try for two
    minutes, and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_SECONDS).close()


def _start(ray: ModuleType, folder: Path, quiet: Mapping[str, Any]) -> None:
    """Starts Ray, and tries once more if the first try timed out, as on a busy machine.

    Raises:
        Unavailable: Ray does not start.
    """
    for is_last in (False, True):
        try:
            ray.init(include_dashboard=False, object_store_memory=_OBJECT_STORE, _temp_dir=str(folder), **quiet)
            return
        except Exception as error:  # Ray raises a bare Exception
            ray.shutdown()
            is_slow = _TIMED_OUT in str(error)
            if is_last or not is_slow:
                raise Unavailable(
                    f"Ray does not start: {error}",
                    where=str(folder),
                    remedy="The machine may be too busy: try again when it has less to do."
                    if is_slow
                    else None,
                ) from error


@contextmanager
def _set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets these environment variables while the block runs; the processes it starts inherit them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
