"""Apicurio's schema registry in memory, with the API that Kafka's clients know, on loopback."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from headrace.kernel.ports import find_free_port
from services.server import hold_cache, run_maven, serving

__all__ = ["Registry", "registry"]

_VERSION = "3.0.9"  # 3.3 needs Java 21
_APP = f"apicurio-registry-app-{_VERSION}"


@dataclass(frozen=True)
class Registry:
    """A running registry.

    Attributes:
        url: what a profile's `schema_registry` setting takes.
        pid: its process.
    """

    url: str
    pid: int


@contextlib.contextmanager
def registry(folder: Path, port: int | None = None) -> Iterator[Registry]:
    """A registry that forgets all when it ends.

    Args:
        folder: an existing folder, for its output.
        port: the port to listen on; a free one where none is named.
    """
    port = port or find_free_port()
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    jar = _unpacked() / f"{_APP}-runner.jar"
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
               "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}", "-jar", str(jar)]  # fmt: skip
    with serving(command, lambda: _answers(url), folder=folder) as process:
        yield Registry(url, process.pid)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/subjects", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _unpacked() -> Path:
    """The folder of the registry's program, fetched once by Maven.

    Raises:
        Missing: there is no Maven.
        RuntimeError: Maven failed; with what it said.
    """
    with hold_cache("registry") as place:
        folder = place / _VERSION
        if (folder / f"{_APP}-runner.jar").is_file():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        artifact = f"io.apicurio:apicurio-registry-app:{_VERSION}:tar.gz:all"
        run_maven(
            "the registry", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"
        )  # fmt: skip
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        archive.unlink()
        return folder
