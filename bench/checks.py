"""The memory of `headrace check parity` and `check skew` over a million logged predictions.

    python bench/checks.py [--json] [--predictions 1000000]

Each check runs in a process of its own, over a tenth of the predictions and over all of them; the most memory
that the process ever had is read from the system. Every prediction must be equal to what is computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from backtest import MODELS, log_requests
from headrace.config.settings import load_settings
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.flows.trace.parity import parity
from headrace.flows.trace.skew import skew
from headrace.serving.prediction import Prediction
from headrace.workspace import Workspace
from serving import make_project

CHECKS = {"parity": parity, "skew": skew}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.add_argument("--predictions", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="the project of a run before")
    parser.add_argument("--part", choices=CHECKS, help="runs one check in this process")
    options = parser.parse_args()
    if options.part:
        check(options.folder, options.part, options.predictions)
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = make_project(Path(folder) / "project")
        (settings.root / "small" / "models.py").write_text(MODELS)
        log_requests(settings, options.predictions)
        with Workspace(settings) as workspace:
            Ingest(contract_of(Prediction), workspace.log, workspace.lake).run(True, threading.Event())
        for part in CHECKS:
            for count in (options.predictions // 10, options.predictions):
                run_part(settings.root, part, count)


def run_part(root: Path, part: str, count: int) -> None:
    command = [sys.executable, __file__, "--part", part, "--folder", str(root), "--predictions", str(count)]
    subprocess.run(command, check=True)


def check(root: Path, part: str, count: int) -> None:
    """Runs a check over the newest predictions, and prints its seconds and its peak memory."""
    begun = time.perf_counter()
    with Workspace(load_settings(root)) as workspace:
        (report,) = CHECKS[part](workspace, "purchase", limit=count).values()
    compared = report.checked if part == "parity" else report.predictions
    assert (compared, report.equal) == (count, count), report
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory, too
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    for figure, unit in ((time.perf_counter() - begun, "s"), (peak, "MiB at most")):
        print(json.dumps({"work": f"check {part}, {count:,} predictions", "ours": figure, "unit": unit}))


if __name__ == "__main__":
    main()
