"""console: serves the console's pages."""

from __future__ import annotations

import sys
import threading

from headrace.config.settings import Settings
from headrace.console.app import app
from headrace.runtime.child import run_child, serve_until


def serve_console(settings: Settings, port: int, stop: threading.Event) -> None:
    """Serves the console until `stop`."""
    serve_until(app(settings), settings, port, stop)


if __name__ == "__main__":
    sys.exit(run_child(serve_console))
