"""Starts one server in the foreground, until Ctrl-C or for a command that uses it.

python -m services [--folder DIR] kafka [-- COMMAND...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from services.catalog import catalog
from services.kafka import broker
from services.otel import collector
from services.postgres import postgres
from services.redis import redis
from services.registry import registry
from services.s3 import store

SERVERS: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "catalog": catalog,
    "kafka": broker,
    "otel": collector,
    "postgres": postgres,
    "redis": redis,
    "registry": registry,
    "s3": store,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=sorted(SERVERS))
    parser.add_argument("--folder", type=Path, help="where its data are kept; a scratch folder else")
    parser.add_argument(
        "command", nargs="*", help="what to run meanwhile, after --; the server's address is in its environment"
    )
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(SERVERS[given.server](folder.absolute()))
        print(server, flush=True)
        if not given.command:
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            return
        # Ctrl-C reaches the command too, and the server ends after it.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        environment = {**os.environ, **server.environment}
        sys.exit(subprocess.run(given.command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
