"""PostgreSQL, one server on loopback, with the logical replication that change data capture needs."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import Missing, Server, serving

__all__ = ["Postgres", "postgres"]

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "timezone": "UTC",
}


class Postgres(Server):
    """A running server; its URL is `postgresql://...`, of the database `postgres` and its superuser."""

    @property
    def environment(self) -> dict[str, str]:
        """Where it is, for PostgreSQL's own programs, `headrace capture` and the profile `postgres`."""
        return {
            "PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres", "PGDATABASE": "postgres",
            "HEADRACE_ONLINE": self.url, "HEADRACE_FEAST_REGISTRY": self.url,
            "HEADRACE_DATABASES": json.dumps({"warehouse": self.url}),
        }  # fmt: skip


@contextlib.contextmanager
def postgres(folder: Path, port: int | None = None, *, fsync: bool = False) -> Iterator[Postgres]:
    """A server whose data lie in `folder`; started again there, it has what it had.

    It refuses to run as root: then it runs as the user `postgres`, who must be able to reach the folder
    (a folder within one that only root may enter will not do).

    Args:
        folder: an existing folder.
        port: the port to listen on; a free one where none is named.
        fsync: whether what is committed survives a power cut, as on a real server.

    Raises:
        Missing: there is no PostgreSQL server, or no user to run it as.
    """
    initdb, server, control = (_program(name) for name in ("initdb", "postgres", "pg_ctl"))
    user = _user(folder)
    data = folder / "data"
    if not data.exists():
        made = [*user, initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(made, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    port = port or find_free_port()
    settings = {**_SETTINGS, "fsync": "on" if fsync else "off", "port": port, "unix_socket_directories": folder}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [*user, server, "-D", str(data), *options]
    with serving(command, lambda: _ready(data), folder=folder) as process:
        try:
            yield Postgres(f"postgresql://postgres@127.0.0.1:{port}/postgres", port, process.pid)
        finally:
            # SIGTERM alone would wait for every client to leave.
            stop = [*user, control, "-D", str(data), "stop", "-m", "fast"]
            subprocess.run(stop, cwd=folder, capture_output=True, check=False)


def _ready(data: Path) -> bool:
    """Its port accepts before it lets anyone in; the last line of its own file tells."""
    told = data / "postmaster.pid"
    return told.is_file() and told.read_text().strip().endswith("ready")


def _program(name: str) -> str:
    """Debian keeps the server's programs off the PATH."""
    found = shutil.which(name)
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    if found is None and not installed:
        raise Missing(f"{name} (PostgreSQL's server) is not installed")
    return found or str(installed[-1])


def _user(folder: Path) -> list[str]:
    """What comes before a command so that it does not run as root."""
    if os.geteuid() != 0:
        return []
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        raise Missing("PostgreSQL does not run as root, and there is no user postgres") from None
    for path in (folder, *folder.iterdir()):
        if path.stat().st_uid == 0:
            os.chown(path, account.pw_uid, account.pw_gid)
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
