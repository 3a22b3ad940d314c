"""Housekeeping: threads that run beside the ingest while the project is up.

They maintain the lake, review the canaries, send lineage to OpenLineage endpoints, deliver alerts to their
channels, and end the alerts of schedules once no schedule is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from headrace import lineage
from headrace import log as logs
from headrace.alerts.channels import channels
from headrace.alerts.delivery import deliver
from headrace.alerts.watch import AlertWatch
from headrace.config.settings import Settings
from headrace.flows.models.canary import run_canaries
from headrace.flows.project.maintain import run_maintenance
from headrace.lineage.forward import forward
from headrace.runtime.schedule_alerts import ScheduleSource
from headrace.workspace import Workspace

__all__ = ["housekeeping"]

_GRACE = 10.0  # seconds that a thread may take to end


@contextmanager
def housekeeping(settings: Settings) -> Iterator[None]:
    """During the block, maintains the lake and reviews the canaries. If the profile names where to, it also
    forwards lineage and delivers alerts."""
    with ExitStack() as stack:
        if settings.alerts.channels:
            log = stack.enter_context(closing(logs.open(settings.log.url)))
            ledger = settings.make_state() / "alerts.json"
            stack.enter_context(_thread(deliver, channels(settings), log, ledger))
        if settings.lineage.endpoints:
            stack.enter_context(_thread(forward, lineage.open(settings), settings.lineage.endpoints))
        if not settings.schedules:  # else the process that runs them watches them too
            workspace = stack.enter_context(Workspace(settings))
            stack.enter_context(AlertWatch([ScheduleSource(settings)], workspace.log, workspace.lake))
        stack.enter_context(_thread(run_maintenance, settings))
        stack.enter_context(_thread(run_canaries, settings))
        yield


@contextmanager
def _thread(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Runs the work in a thread during the block. Its last argument is an event that is set at the end."""
    ended = threading.Event()
    thread = threading.Thread(target=work, args=(*arguments, ended), name=work.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_GRACE)
