"""ingest: moves events from the log into the tables and the online state, and does the housekeeping."""

from __future__ import annotations

import sys
import threading

from headrace.config.settings import Settings
from headrace.flows.events.ingest import ingest
from headrace.kernel.child import report_alive, report_ready
from headrace.kernel.memory import freeze_objects
from headrace.runtime.child import run_child
from headrace.runtime.housekeeping import housekeeping
from headrace.workspace import Workspace


def ingest_and_keep(settings: Settings, _port: int, stop: threading.Event) -> None:
    """Ingests every topic until `stop`, or until newer code needs a new process."""

    def note_ready() -> None:
        freeze_objects()
        report_ready()

    with housekeeping(settings), Workspace(settings) as workspace:
        ingest(workspace, stop=stop, end_on_newer_code=True, on_ready=note_ready, on_alive=report_alive)


if __name__ == "__main__":
    sys.exit(run_child(ingest_and_keep))
