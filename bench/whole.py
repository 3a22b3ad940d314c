"""The whole as a user meets it: what the commands cost, and with --demo the demo and its memory.

    python bench/whole.py [--json] [--demo]

A prediction's own time is in serving.py. Memory is the sum of PSS, every 0.5 s, over all processes
below the command but Ray's own daemons; it is read from /proc, so only on Linux. (The file is not
named after the platform: the name would hide the standard library's module from its neighbours.)
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
    parser.add_argument("--demo", action="store_true", help="also the demo: a minute, most of a machine")
    given = parser.parse_args()
    for work, ours, unit in figures(given.demo):
        figure = {"work": work, "ours": round(ours, 4), "unit": unit}
        print(json.dumps(figure) if given.json else figure, flush=True)


def figures(demo: bool) -> Iterator[tuple[str, float, str]]:
    yield (
        "import headrace, Python's start and all",
        seconds([sys.executable, "-c", "import headrace"]) * 1000,
        "ms",
    )
    yield "headrace --help", seconds([HEADRACE, "--help"]) * 1000, "ms"
    if not demo:
        return
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        report, peak = demonstrated(folder / "shop")
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
    taken = []
    for _ in range(TIMES + 1):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return median(taken[1:])


def demonstrated(folder: Path) -> tuple[dict[str, Any], int]:
    """The demo's report, and its peak PSS in bytes (0 where the system does not tell)."""
    peak = 0
    with tempfile.TemporaryFile() as said:
        command = [HEADRACE, "demo", "--json", "--folder", str(folder)]
        with subprocess.Popen(command, stdout=said) as process:
            while process.poll() is None:
                peak = max(peak, pss(process.pid))
                time.sleep(0.5)
        said.seek(0)
        if process.returncode:
            raise SystemExit(f"the demo failed: exit {process.returncode}")
        report: dict[str, Any] = json.load(said)
    return report, peak


def pss(root: int) -> int:
    """Bytes of the process and of all below it, Ray's daemons left out."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
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
