"""Runs one replica as a process: `python -m headrace.serving.deployment.replica ROOT PROFILE SOCKET [MODEL
...]`.

SOCKET is the descriptor of a listening socket that the process inherits and shares with the other replicas.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.config.settings import Settings, load_settings
from headrace.http.serve import await_stop, serve, stop_on_signals
from headrace.kernel.child import end_with_parent, report_alive, report_ready, run_work
from headrace.kernel.memory import freeze_objects

if TYPE_CHECKING:
    from headrace.serving.mlflow_models.served import ServedModels
    from headrace.serving.models import Models

__all__ = ["DRAIN", "GRACE", "open_models", "run_replica", "shorten_turns"]

_TURN = 1e-4  # seconds
DRAIN = 0.5
"""Seconds within which the requests on connections that were accepted arrive."""
GRACE = 10
"""Seconds that a replica which ends has for the requests that it has accepted, wherever it runs."""


def shorten_turns() -> None:
    """Lets the event loop run soon, while a thread of this process loads a version or answers a large batch.

    By default a thread that waits for the interpreter gets it after 5 ms, and a request waits several times.
    """
    sys.setswitchinterval(_TURN)


def open_models(settings: Settings, names: Sequence[str], served: ServedModels | None = None) -> Models:
    """The models of a replica (see Models).

    A later version may be of another trainer than those in force. So the libraries of all of them are loaded
    before the first request, and what is in memory then is frozen.
    """
    from headrace.serving.models import Models
    from headrace.training.trainers import preload_libraries

    models = Models(settings, names, served)
    if models.released:
        preload_libraries()
    freeze_objects()
    return models


def run_replica(root: str, profile: str, descriptor: int, models: Sequence[str], stop: threading.Event) -> None:
    """Answers requests until `stop` is set."""
    from headrace.serving.endpoint import Endpoint
    from headrace.serving.tracing import open_tracer

    shorten_turns()
    settings = load_settings(Path(root), profile)
    shared = socket.socket(fileno=descriptor)
    shared.setblocking(False)
    endpoint = Endpoint(
        open_models(settings, models),
        settings.place("serving"),
        settings.http.host,
        token_files=settings.token_paths,
        open_metrics=settings.http.open_metrics,
        tracer=open_tracer(settings),
    )
    with (
        closing(endpoint),
        serve(endpoint.app, "", 0, bound=shared, beat=report_alive, drain=DRAIN, grace=GRACE),
    ):
        report_ready()
        await_stop(stop)


def _main() -> int:
    stop = stop_on_signals()
    end_with_parent()
    root, profile, descriptor, *models = sys.argv[1:]
    return run_work(lambda: run_replica(root, profile, int(descriptor), models, stop))


if __name__ == "__main__":
    sys.exit(_main())
