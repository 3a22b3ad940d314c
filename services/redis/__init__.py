"""Redis, one server on loopback that writes every change to its append-only file."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import CACHE, Missing, Server, accepts, serving

__all__ = ["Redis", "redis"]

# Debian's packages of the server and of the libraries that it loads.
_PACKAGES = (
    "redis-server",
    "redis-tools",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "lua-cjson",
    "lua-bitop",
)


class Redis(Server):
    """A running server; its URL is `redis://...`, of database 0."""

    @property
    def environment(self) -> dict[str, str]:
        """Where it is, for the profile `redis`."""
        return {"HEADRACE_ONLINE": self.url}


@contextlib.contextmanager
def redis(folder: Path, port: int | None = None, *options: str) -> Iterator[Redis]:
    """A server whose data lie in `folder`; started again there, it has what it had.

    Args:
        folder: an existing folder.
        port: the port to listen on; a free one where none is named.
        options: further options of redis-server.

    Raises:
        Missing: there is no Redis server, and none can be fetched.
    """
    port = port or find_free_port()
    program, environment = _program()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--appendonly", "yes"]
    command += ["--appendfsync", "everysec", "--save", "", *options]
    with serving(command, lambda: accepts(port), folder=folder, environment=environment) as process:
        yield Redis(f"redis://127.0.0.1:{port}/0", port, process.pid)


def _program() -> tuple[str, dict[str, str]]:
    """The server, and what it needs in its environment: the machine's own, else that of Debian's packages."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed, {}
    folder = CACHE / "redis"
    program = folder / "usr" / "bin" / "redis-server"
    if not program.exists():
        _fetch(folder)
    libraries = [str(path.parent) for path in folder.rglob("libjemalloc.so.2")]
    return str(program), {"LD_LIBRARY_PATH": ":".join(libraries)}


def _fetch(folder: Path) -> None:
    """Unpacks the packages into this folder, without installing them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch)
        try:
            _run("apt-get", "download", *_PACKAGES, cwd=place)
            for package in sorted(place.glob("*.deb")):
                _run("dpkg", "-x", str(package), str(place / "root"), cwd=place)
        except FileNotFoundError as error:
            raise Missing("redis-server is not installed") from error
        with contextlib.suppress(OSError):  # another process was quicker
            os.rename(place / "root", folder)


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise Missing(f"redis-server is not installed, and {command[0]} cannot fetch it: {done.stderr[-500:]}")
