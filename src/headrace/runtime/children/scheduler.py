"""scheduler: starts the builds of the project's schedules."""

from __future__ import annotations

import sys
import threading

from headrace.alerts.watch import AlertWatch
from headrace.config.settings import Settings
from headrace.flows.build.schedules import check_schedules
from headrace.kernel.child import report_alive, report_event, report_ready
from headrace.runtime.child import run_child
from headrace.runtime.schedule_alerts import ScheduleSource
from headrace.runtime.scheduler import Scheduler
from headrace.runtime.topic_tables import TopicTables
from headrace.workspace import Workspace

_INTERVAL = 0.5  # seconds between two checks


def run_schedules(settings: Settings, _port: int, stop: threading.Event) -> None:
    """Starts each build that is due until `stop`, then ends a build that runs."""
    with Workspace(settings) as workspace:
        tables = check_schedules(workspace)
        topic_tables = TopicTables(workspace.log, workspace.lake, tables)
        scheduler = Scheduler(settings, topic_tables.read_snapshots, report_event)
        report_ready()
        with AlertWatch([ScheduleSource(settings)], workspace.log, workspace.lake):
            try:
                while not stop.wait(_INTERVAL):
                    scheduler.check()
                    report_alive()
            finally:
                scheduler.end()


if __name__ == "__main__":
    sys.exit(run_child(run_schedules))
