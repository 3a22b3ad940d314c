"""One replica as a process: `python -m headrace.serving.deployment.replica ROOT PROFILE SOCKET [MODEL ...]`.

SOCKET is the descriptor of a listening socket that it inherits and shares with the other replicas.
"""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from headrace.config.settings import load_settings
from headrace.http.serve import serve, stop_on_signals
from headrace.kernel.child import end_with_parent, report_alive, report_ready
from headrace.kernel.errors import HeadraceError
from headrace.kernel.secrets import clean_text

__all__ = ["main"]

_DRAIN = 0.5  # seconds: a request that this process has accepted comes in within them


def main(root: str, profile: str, descriptor: int, models: Sequence[str]) -> int:
    """Answers until it is told to end; returns the exit code."""
    stop = stop_on_signals()
    end_with_parent()
    try:
        from headrace.serving.endpoint import Endpoint
        from headrace.serving.models import Models

        settings = load_settings(Path(root), profile)
        shared = socket.socket(fileno=descriptor)
        shared.setblocking(False)
        endpoint = Endpoint(Models(settings, models), settings.place("serving", "spool"), settings.http.host)
        try:
            with serve(endpoint.app, "", 0, bound=shared, beat=report_alive, drain=_DRAIN):
                report_ready()
                stop.wait()
        finally:
            endpoint.close()
    except HeadraceError as error:
        print(clean_text(str(error).replace("\n ", "")), file=sys.stderr)  # noqa: T201  the child's log
        return error.exit_code
    except Exception:
        print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
