"""One server process: started, waited for until it answers, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.kernel.lock import hold_lock

__all__ = ["CACHE", "Missing", "Server", "accepts", "go_program", "hold_cache", "jars", "run_maven", "serving"]

HERE = Path(__file__).parent
# What was fetched or built for the servers; kept between runs, safe to delete.
CACHE = Path(os.environ.get("HEADRACE_SERVICES") or Path.home() / ".cache" / "headrace-services")


class Missing(RuntimeError):
    """A program or a package that the server needs is not on this machine; it says which."""


@contextlib.contextmanager
def hold_cache(name: str) -> Iterator[Path]:
    """A folder of CACHE, which no other process changes while the block runs.

    Two processes of the tests may need a server for the first time at the same moment. Each would take files
    for complete that the other one is writing.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with hold_lock(CACHE / f"{name}.lock"):
        yield CACHE / name


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: its address, as the setting of a profile has it.
        port: its port on the loopback address.
        pid: its process.
    """

    url: str
    port: int
    pid: int


def accepts(port: int) -> bool:
    """Whether something on the loopback address accepts connections at this port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    ready: Callable[[], bool],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    deadline: float = 180.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the command in `folder` (its output goes to `server.log` there) while the block runs.

    Raises:
        Missing: there is no such program.
        RuntimeError: it ended, or was not ready within `deadline` seconds; with its last lines.
    """
    log = folder / "server.log"
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})}, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise Missing(f"{command[0]} is not installed") from error
    try:
        end = time.monotonic() + deadline
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                said = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{command[0]} is not ready (exit {process.poll()}):\n{said}")
            time.sleep(0.05)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its group: SIGTERM, and SIGKILL where it does not end in 15 s."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def jars(name: str) -> Path:
    """The folder of the jars that `services/NAME/pom.xml` declares, fetched once by Maven.

    Raises:
        Missing: there is no Maven or no Java.
        RuntimeError: Maven failed; with what it said.
    """
    pom = HERE / name / "pom.xml"
    with hold_cache(name) as folder:
        done = folder / "pom.xml"
        if done.is_file() and done.read_bytes() == pom.read_bytes():
            return folder / "lib"
        folder.mkdir(exist_ok=True)
        run_maven(
            f"{name}'s jars", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime",
            f"-DoutputDirectory={folder / 'lib'}",
        )  # fmt: skip
        done.write_bytes(pom.read_bytes())
        return folder / "lib"


def run_maven(what: str, *arguments: str) -> None:
    """Runs Maven, one process of it at a time: they share their repository.

    Raises:
        Missing: there is no Maven.
        RuntimeError: it could not fetch `what`; with what it printed.
    """
    with hold_cache("maven"):
        try:
            fetched = subprocess.run(
                ["mvn", "-B", "-q", *arguments], capture_output=True, text=True, timeout=600, check=False
            )
        except FileNotFoundError as error:
            raise Missing("mvn (Maven) is not installed") from error
    if fetched.returncode:
        raise RuntimeError(f"Maven could not fetch {what}:\n{fetched.stdout[-2000:]}")


def go_program(name: str, program: str, *commands: Sequence[str]) -> Path:
    """The program of the server `name`. These commands make it once with Go, in the folder in which they run.

    Raises:
        Missing: there is no Go.
        RuntimeError: a command failed; with its last lines.
    """
    with hold_cache(name) as folder:
        path = folder / program
        if path.is_file():
            return path
        folder.mkdir(exist_ok=True)
        for command in commands:
            try:
                run = subprocess.run(
                    command, cwd=folder, env={**os.environ, "GOBIN": str(folder)},
                    capture_output=True, text=True, timeout=900, check=False,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise Missing("go (the Go compiler) is not installed") from error
            if run.returncode:
                raise RuntimeError(f"{program} could not be built:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
        return path
