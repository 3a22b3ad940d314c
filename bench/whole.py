"""The time of whole commands, and with --demo the time and memory of the demo.

    python bench/whole.py [--json] [--demo]

bench/serving.py measures predictions. Memory is the sum of PSS, every 0.5 s, over the command and its
descendants without Ray's daemons. It is read from /proc, so only on Linux.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

HEADRACE = str(Path(sys.executable).with_name("headrace"))
TIMES = 5
DAEMONS = ("/raylet/raylet", "/gcs/gcs_server", "ray::RuntimeEnvAgent", "ray::IDLE", "lean_agent.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--demo", action="store_true", help="also run the demo, for about a minute")
    options = parser.parse_args()
    for work, ours, unit in measure(options.demo):
        figure = {"work": work, "ours": round(ours, 4), "unit": unit}
        print(json.dumps(figure) if options.json else figure, flush=True)


def measure(demo: bool) -> Iterator[tuple[str, float, str]]:
    yield (
        "import headrace, with the start of Python",
        seconds([sys.executable, "-c", "import headrace"]) * 1000,
        "ms",
    )
    yield "headrace --help", seconds([HEADRACE, "--help"]) * 1000, "ms"
    if not demo:
        return
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        report, peak = run_demo(folder / "shop")
        yield "headrace demo, 200,000 events", report["seconds"], "s"
        if peak:
            yield "headrace demo, peak PSS without Ray's daemons", peak / 2**20, "MiB"
        for verb in (["build"], ["status"], ["why", report["facts"]["prediction"]]):
            what = "headrace build, nothing to do" if verb == ["build"] else f"headrace {verb[0]}"
            yield what, seconds([HEADRACE, *verb, "--project", str(folder / "shop")]), "s"
    finally:
        shutil.rmtree(folder)


def seconds(command: list[str]) -> float:
    """The median wall time of a command, after one run that is not counted."""
    durations = []
    for _ in range(TIMES + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        durations.append(time.perf_counter() - start)
    return median(durations[1:])


def run_demo(folder: Path) -> tuple[dict[str, Any], int]:
    """Runs the demo; returns its report, and its peak PSS in bytes (0 on systems without /proc)."""
    peak = 0
    with tempfile.TemporaryFile() as output:
        command = [HEADRACE, "demo", "--json", "--folder", str(folder)]
        with subprocess.Popen(command, stdout=output) as process:
            while process.poll() is None:
                peak = max(peak, proportional_set_size(process.pid))
                time.sleep(0.5)
        output.seek(0)
        if process.returncode:
            raise SystemExit(f"the demo failed: exit {process.returncode}")
        report: dict[str, Any] = json.load(output)
    return report, peak


def proportional_set_size(root: int) -> int:
    """The PSS in bytes of the process and its descendants, without Ray's daemons."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        pending += children.get(pid, [])
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if any(name in command for name in DAEMONS):
                continue
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


if __name__ == "__main__":
    main()
