"""Starts one server in the foreground until Ctrl-C: python -m services kafka [--folder DIR]."""

from __future__ import annotations

import argparse
import contextlib
import signal
import tempfile
from pathlib import Path

from services.kafka import broker
from services.postgres import postgres

SERVERS = {"kafka": broker, "postgres": postgres}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=sorted(SERVERS))
    parser.add_argument("--folder", type=Path, help="where its data are kept; a scratch folder else")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        print(stack.enter_context(SERVERS[given.server](folder.absolute())), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
