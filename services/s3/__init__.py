"""An S3 object store (versitygw over a folder), on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.kernel.ports import find_free_port
from services.server import accepts, go_program, serving

__all__ = ["Store", "store"]

_SOURCE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
_KEY, _SECRET = "key", "secret123"
BUCKET = "shop"


@dataclass(frozen=True)
class Store:
    """A running object store.

    Attributes:
        url: what a profile's `warehouse` setting takes.
        environment: what its clients find it and its keys by.
        port: its port on the loopback address.
        pid: its process.
    """

    url: str
    environment: dict[str, str]
    port: int
    pid: int


@contextlib.contextmanager
def store(folder: Path, port: int | None = None) -> Iterator[Store]:
    """A store with one bucket, whose objects lie in `folder`; started again there, it has what it had.

    Args:
        folder: an existing folder.
        port: the port to listen on; a free one where none is named.

    Raises:
        Missing: there is no Go to build it with.
    """
    port = port or find_free_port()
    (folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)  # a folder at the top is a bucket
    program = go_program("s3", "versitygw", ["go", "install", "-ldflags", "-s -w", _SOURCE])
    command = [str(program), "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(folder / "data")]
    keys = {"ROOT_ACCESS_KEY": _KEY, "ROOT_SECRET_KEY": _SECRET}
    environment = {
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
    }
    with serving(command, lambda: accepts(port), folder=folder, environment=keys) as process:
        yield Store(f"s3://{BUCKET}/warehouse", environment, port, process.pid)
