"""One Ray a project: a verb joins the one that runs, or starts it. The only file that starts Ray.

Everything of it listens on loopback, and its files lie in a private folder (`runtime_folder`).
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from msgspec import Struct

from headrace.cluster.lean import lean
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import create_file, write_file
from headrace.kernel.lock import hold_lock

__all__ = ["connect", "runtime_folder", "worker_variables"]

_logger = logging.getLogger(__name__)
_OBJECT_STORE = 512 << 20  # bytes
_TEMPORARY = Path("/tmp")  # noqa: S108  the folder made in it is checked to be ours alone

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
_in_process = threading.Lock()
_worker_variables: dict[str, str] = {}
_TIMED_OUT = "timed out during startup"  # what Ray says where its daemons are slow, in a bare Exception


class _Address(Struct):
    """What `ray.json` in the state folder holds: who started Ray, and where it listens."""

    address: str
    pid: int


def runtime_folder(settings: Settings) -> Path:
    """A folder of this project and profile for sockets, 0700, with a path short enough for them.

    A socket's path may have 107 characters, which a state folder may use up by itself.

    Raises:
        Unavailable: somebody else made the folder, or others may enter it.
    """
    digest = short_digest(str(settings.state.resolve()))[:8]
    folder = _TEMPORARY / f"headrace-{digest}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise Unavailable("the folder is not ours alone", where=str(folder), remedy="Remove it.")
    return folder


@contextmanager
def connect(
    settings: Settings, *, own: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """While the block runs, this process is connected to the project's Ray.

    A process that is connected already stays so, and nothing ends with the block. Else it joins the
    Ray of the profile, or that of another verb of this project, or starts one that ends with it.

    Args:
        own: do not join another verb's Ray, which ends when that verb does: start one.
        environment: variables that all its workers shall have, if it is started here (`worker_variables`).

    Raises:
        Unavailable: Ray does not start, or the profile's cluster does not answer.
    """
    ray = _ray(settings)
    with _in_process:
        outer = ray.is_initialized()
        started = not outer and _join_or_start(ray, settings, own, environment or {})
    try:
        yield
    finally:
        if not outer:
            ray.shutdown()
            _worker_variables.clear()
        if started:
            _forget(settings)


def worker_variables() -> Mapping[str, str]:
    """The variables that the workers of this process' Ray were given at its start."""
    return _worker_variables


def _ray(settings: Settings) -> ModuleType:
    """Ray, imported with what it must be told before."""
    local = settings.cluster.is_local
    if local:
        os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN_PATH=str(_token(settings)))
    import ray
    from ray._private import worker

    worker.print_to_stdstream = _heard
    if local:
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        # Ray may have been imported before, by a notebook say: then it has not read what is above.
        ray_constants.ENABLE_RAY_CLUSTER = False
        Config.initialize('{"AUTH_MODE": "token"}')
        AuthenticationTokenLoader.instance().reset_cache()  # it may hold another project's
    return ray  # type: ignore[no-any-return]


def _heard(said: dict[str, Any], *_: object, **__: object) -> None:
    """What Ray would print among a verb's results, on its standard output."""
    _logger.info("%s", "\n".join(said["lines"]))


def _token(settings: Settings) -> Path:
    """The file with the token that Ray asks of who joins; made at the first start, 0600."""
    path = settings.make_state() / "ray.token"
    create_file(path, secrets.token_hex(32), mode=0o600)
    return path


def _join_or_start(ray: ModuleType, settings: Settings, own: bool, environment: Mapping[str, str]) -> bool:
    """Whether Ray was started rather than joined."""
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
        running = None if own else _running(settings)
        if running is not None:
            with suppress(ConnectionError, RuntimeError):  # it may be ending just now
                ray.init(address=running, **quiet)
                return False
        folder = runtime_folder(settings) / "ray"  # Ray opens its own folder to everyone
        _sweep(folder)
        with lean(), _environment(environment):
            _start(ray, folder, quiet)
        _worker_variables.update(environment)
        address = _Address(ray.get_runtime_context().gcs_address, os.getpid())
        write_file(settings.place("ray.json"), msgspec.json.encode(address))
    return True


def _start(ray: ModuleType, folder: Path, quiet: Mapping[str, Any]) -> None:
    """Starts Ray; a second time where a busy machine made the first one time out.

    Raises:
        Unavailable: it does not start.
    """
    for last in (False, True):
        try:
            ray.init(include_dashboard=False, object_store_memory=_OBJECT_STORE, _temp_dir=str(folder), **quiet)
            return
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            slow = _TIMED_OUT in str(error)
            if last or not slow:
                raise Unavailable(
                    f"Ray does not start: {error}",
                    where=str(folder),
                    remedy="The machine may be too busy: try again when it has less to do." if slow else None,
                ) from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """While the block runs, this process has these variables, and what it starts inherits them."""
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


def _sweep(folder: Path) -> None:
    """Removes the logs and sockets of Rays whose starter is gone; their names end with its process id."""
    for session in folder.glob("session_*_*"):
        if not _alive(int(session.name.rpartition("_")[2])):
            shutil.rmtree(session, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _running(settings: Settings) -> str | None:
    """The address of another verb's Ray, if that verb lives and its Ray accepts connections."""
    try:
        found = msgspec.json.decode(settings.place("ray.json").read_bytes(), type=_Address)
        if not _alive(found.pid):
            return None
        host, _, port = found.address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    return found.address


def _forget(settings: Settings) -> None:
    path = settings.place("ray.json")
    with suppress(OSError, msgspec.DecodeError):
        if msgspec.json.decode(path.read_bytes(), type=_Address).pid == os.getpid():
            path.unlink()
