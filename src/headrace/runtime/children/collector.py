"""collector: accepts events over HTTP and appends them to the log."""

from __future__ import annotations

import sys
import threading

from headrace.config.settings import Settings
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.runtime.child import run_child, serve_until
from headrace.workspace import Workspace


def collect(settings: Settings, port: int, stop: threading.Event) -> None:
    """Serves the collector until `stop`."""
    with Workspace(settings) as workspace:
        folder = settings.make_state() / "collector"
        collector = Collector(workspace.project.contracts, workspace.log, folder)
        guarded = GuardMiddleware(collector, settings.http.host, token_files=settings.token_paths)
        serve_until(guarded, settings, port, stop)


if __name__ == "__main__":
    sys.exit(run_child(collect))
