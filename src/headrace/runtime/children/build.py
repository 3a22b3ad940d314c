"""build: builds the targets that its arguments name (none: everything) once, and ends."""

from __future__ import annotations

import signal
import sys
import threading

from headrace.config.settings import Settings
from headrace.flows.build import StageReport, build
from headrace.runtime.child import run_child
from headrace.workspace import Workspace


def build_once(settings: Settings, _port: int, _stop: threading.Event) -> None:
    """Builds what is stale, and writes each stage that ran to the child's log."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it may be killed at any point: the next build continues
    with Workspace(settings) as workspace:
        build(workspace, sys.argv[4:], progress=_log_stage)


def _log_stage(stage: StageReport) -> None:
    if stage.seconds is not None:
        print(f"{stage.stage}: {stage.what} ({stage.seconds:.2f} s)", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(run_child(build_once))
