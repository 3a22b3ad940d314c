"""A Ray for each project: a verb joins the running one, or starts it. No other file starts Ray.

All of it listens on loopback, and its files are in a private folder (`runtime_folder`).
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from headrace.cluster.address import find_address, forget_address, keep_address
from headrace.cluster.folder import remove_dead_sessions, runtime_folder
from headrace.cluster.internals import log_worker_output, use_token
from headrace.cluster.lean import lean
from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import create_file
from headrace.kernel.foreign import check_version
from headrace.kernel.lock import hold_lock

__all__ = ["connect", "worker_variables"]

_OBJECT_STORE = 512 << 20  # bytes
# A cluster across machines makes Ray listen on every address. Without one its daemons and workers
# take 127.0.0.1 (the variable's name tells where that is Ray's own default). It is read when Ray is
# imported and again by its children.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's workers would run at niceness 15: a replica must not wait for a build. Trials lower their own.
    "RAY_worker_niceness": "0",
}
_TIMED_OUT = "timed out during startup"  # in the bare Exception that Ray raises where its daemons are slow
_in_process = threading.Lock()
_worker_variables: dict[str, str] = {}


@contextmanager
def connect(
    settings: Settings, *, own: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Connects this process to the project's Ray while the block runs.

    A process that is connected already stays so, and nothing ends with the block. Else it joins the
    Ray of the profile, or that of another verb of this project, or starts one that ends with it.

    Args:
        settings: of which project.
        own: starts a Ray: another verb's would end when that verb does.
        environment: variables for all its workers, if it is started here (`worker_variables`).

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
    """The variables that were given to the workers of this process' Ray at its start."""
    return _worker_variables


def _import_ray(settings: Settings) -> ModuleType:
    """Ray, with its environment set before it is imported."""
    check_version("ray")
    local = settings.cluster.is_local
    if local:
        os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(_token(settings)))
    import ray

    log_worker_output()
    if local:
        use_token()
    return ray  # type: ignore[no-any-return]


def _token(settings: Settings) -> Path:
    """The file with the token that Ray demands of every process that joins; made at the first start, 0600."""
    path = settings.make_state() / "ray.token"
    create_file(path, secrets.token_hex(32), mode=0o600)
    return path


def _join_or_start(ray: ModuleType, settings: Settings, own: bool, environment: Mapping[str, str]) -> bool:
    """Joins a Ray or starts it; returns whether it was started."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if not settings.cluster.is_local:
        try:
            ray.init(address=settings.cluster.address, **quiet)
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            raise Unavailable(
                f"the Ray cluster does not answer: {error}",
                where=f"profile.{settings.profile_name}.ray: {settings.cluster.address}",
            ) from error
        return False
    with hold_lock(settings.make_state() / "ray.lock"):  # two verbs that begin together start one Ray
        address = None if own else find_address(settings)
        if address is not None:
            with suppress(ConnectionError, RuntimeError):  # it may be ending just now
                ray.init(address=address, **quiet)
                return False
        folder = runtime_folder(settings) / "ray"  # Ray opens its own folder to everyone
        remove_dead_sessions(folder)
        with lean(), _variables(environment):
            _start(ray, folder, quiet)
        _worker_variables.update(environment)
        keep_address(settings, ray.get_runtime_context().gcs_address)
    return True


def _start(ray: ModuleType, folder: Path, quiet: Mapping[str, Any]) -> None:
    """Starts Ray; a second time where a busy machine made the first one time out.

    Raises:
        Unavailable: it does not start.
    """
    for is_last in (False, True):
        try:
            ray.init(include_dashboard=False, object_store_memory=_OBJECT_STORE, _temp_dir=str(folder), **quiet)
            return
        except Exception as error:  # Ray raises bare ones
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
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables while the block runs; what it starts inherits them."""
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
