"""Runs the demos of the examples as users do, and checks what their READMEs show against what is printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.blocks import PORT_VARIABLES, Reader, find_blocks, make_pattern, normalise, split_commands
from tests.until import until

__all__ = [
    "AUTHOR",
    "EXAMPLES",
    "HEADRACE",
    "DemoRun",
    "await_processes",
    "call_dvc",
    "check_readme",
    "follow_readme",
    "plots_of",
    "run_commands",
    "run_demo",
]

EXAMPLES = Path(__file__).parents[2] / "examples"
HEADRACE = Path(sys.executable).with_name("headrace")
AUTHOR = {f"GIT_{role}_{part}": "a" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class DemoRun:
    """A demo that has run.

    Attributes:
        folder: the project, which the demo keeps.
        report: its report, as --json prints it.
        text: what it printed for people.
    """

    folder: Path
    report: dict[str, Any]
    text: str


def run_demo(example: str, folder: Path, *options: str) -> DemoRun:
    """Runs `headrace demo EXAMPLE` in the folder, and asserts that every check passed."""
    command = [HEADRACE, "demo", example, "--json", "--folder", folder, *options]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert process.returncode == 0, process.stderr + process.stdout
    report: dict[str, Any] = json.loads(process.stdout)
    assert report["checks"]
    assert all(check["passed"] for check in report["checks"])
    return DemoRun(folder, report, process.stderr)


def processes_of(folder: Path) -> Iterator[str]:
    """The command lines of processes that run in the folder or name it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            working_folder = process.joinpath("cwd").readlink()
        except OSError:  # the process has ended, or belongs to another user
            continue
        if str(folder) in command or working_folder.is_relative_to(folder):
            yield command


def await_processes(folder: Path) -> None:
    """Returns when no process runs in the folder or names it any more. A process that was told to end by one
    that has ended may take a moment."""
    until(lambda: not [*processes_of(folder)], lambda: "still there:\n" + "\n".join(processes_of(folder)))


def call_dvc(folder: Path, *arguments: str) -> Any:
    """What a command of DVC answers as JSON."""
    command = [HEADRACE.with_name("dvc"), *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def plots_of(folder: Path) -> dict[str, tuple[str, str, list[tuple[float, float]]]]:
    """The plots that `dvc plots show` draws: file → the titles of the axes across and up, and the points."""
    plots = {}
    for name, (plot,) in call_dvc(folder, "plots", "show")["data"].items():
        x, y = (plot["content"]["encoding"][axis] for axis in "xy")
        points = [(float(p[x["field"]]), float(p[y["field"]])) for p in plot["content"]["data"]["values"]]
        plots[name] = (x["title"], y["title"], points)
    return plots


def check_readme(run: DemoRun, readme: Path) -> int:
    """Compares the output that the README shows with what the command prints in the demo's project.

    `headrace demo` is not run again: its output is the demo's. Numbers, ids and paths may differ, the rest as
    tests/docs/blocks.py says. Returns the number of commands compared.
    """
    compared = 0
    for block in find_blocks(readme.read_text(), "console"):
        for command, shown in split_commands(block):
            if not shown.strip():
                continue
            printed = run.text if command.startswith("headrace demo") else _run(command, run.folder)
            pattern = make_pattern(_hide_numbers(shown), {})
            assert pattern.fullmatch(normalise(_hide_numbers(printed))), f"$ {command}\n{printed}"
            compared += 1
    return compared


def run_commands(reader: Reader, readme: Path, *, shown: bool = True) -> None:
    """Runs each command of the README but `headrace demo`, one after the other; compares no output.

    Without `shown` it leaves out those whose output the README shows, which `check_readme` runs.

    Raises:
        AssertionError: a command fails.
    """
    for block in find_blocks(readme.read_text(), "console"):
        for command, output in split_commands(block):
            if not command.startswith("headrace demo") and (shown or not output.strip()):
                reader.run(command, "", readme.parent.name)


def follow_readme(
    readme: Path,
    folder: Path,
    instead: Mapping[str, str] | None = None,
    *,
    shown: bool = True,
    **environment: str,
) -> None:
    """Runs each command of the README, one after the other, in the project that its first ones make.

    Args:
        readme: the README of an example.
        folder: an empty folder, or the project of the example's demo.
        instead: command of the README → the command to run instead, the first time.
        shown: as for `run_commands`.
        environment: further variables of the commands' environment.

    Raises:
        AssertionError: a command fails.
    """
    environment = {**dict.fromkeys(PORT_VARIABLES, "0"), "DVC_NO_ANALYTICS": "1", **AUTHOR, **environment}
    reader = Reader(folder, instead, **environment)
    try:
        run_commands(reader, readme, shown=shown)
    finally:
        code = reader.stop()
    assert code == 0
    await_processes(folder)


def _run(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{HEADRACE.parent}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, f"$ {command}\n{process.stdout}{process.stderr}"
    return process.stdout + process.stderr


def _hide_numbers(text: str) -> str:
    """The text without what differs from run to run: numbers, ids and paths."""
    text = re.sub(r"(/[\w.@+-]+){2,}/?", "/PATH", text)
    text = re.sub(r"\b[0-9a-f]*\d[0-9a-f-]{5,}\b", "#", text)
    return re.sub(r"[-+]?\d[\d,.:]*\d|\d", "#", text)
