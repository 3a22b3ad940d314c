"""scheduler: starts the builds of the project's schedules."""

from __future__ import annotations

import sys
import threading

from headrace.config.settings import Settings
from headrace.flows.build.schedules import check_schedules
from headrace.kernel.child import report_alive, report_event, report_ready
from headrace.lake.table_state import rows_snapshot_ids
from headrace.runtime.child import run_child
from headrace.runtime.scheduler import Scheduler
from headrace.workspace import Workspace

_INTERVAL = 0.5  # seconds between two checks


def run_schedules(settings: Settings, _port: int, stop: threading.Event) -> None:
    """Starts each build that is due until `stop`, then ends a build that runs."""
    with Workspace(settings) as workspace:
        tables = check_schedules(workspace)
        scheduler = Scheduler(
            settings, tables, lambda names: rows_snapshot_ids(workspace.lake, names), report_event
        )
        report_ready()
        try:
            while not stop.wait(_INTERVAL):
                scheduler.check()
                report_alive()
        finally:
            scheduler.end()


if __name__ == "__main__":
    sys.exit(run_child(run_schedules))
