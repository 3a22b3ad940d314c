"""collector: takes events over HTTP and puts them on the log."""

from __future__ import annotations

import sys
import threading
from contextlib import closing

from headrace import log as logs
from headrace.config.settings import Settings
from headrace.events.collector.collector import Collector
from headrace.http.middleware import GuardMiddleware
from headrace.projects.project import load_project
from headrace.runtime.child import run_child, serve_until


def collect(settings: Settings, port: int, stop: threading.Event) -> None:
    """Serves the collector until `stop`."""
    project = load_project(settings, without=["feast"])
    with closing(logs.open(settings.log.url)) as log:
        collector = Collector(project.contracts, log, settings.make_state() / "collector")
        serve_until(GuardMiddleware(collector, settings.http.host), settings, port, stop)


if __name__ == "__main__":
    sys.exit(run_child(collect))
