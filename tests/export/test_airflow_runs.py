"""The DAG run by Airflow 3 itself, in an environment of its own, on a small project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services import airflow
from tests.tiny import edit, write

from headrace import lake
from headrace.config.settings import Settings, load_settings
from headrace.export import TARGETS
from headrace.flows.build import hold_build_lock

TABLES = """
from headrace import source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def first(prices):
    return prices

@table(reads=first)
def second(first):
    return first
"""
# For each line of its input, one run of the DAG as `airflow dags test` makes it.
RUNNER = """
import json, runpy, sys

for line in sys.stdin:
    run = runpy.run_path(sys.argv[1])["dag"].test()
    tasks = {task.task_id: [str(task.state), task.try_number] for task in run.get_task_instances()}
    print("RESULT", json.dumps([str(run.state), tasks]), flush=True)
"""
_LONGEST = 900.0  # seconds that Airflow may take for all runs
STAGES = ["code", "source-prices", "table-first", "table-second"]


class Airflow:
    """A process of Airflow that runs the DAG on demand."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self) -> None:
        """Starts a run."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()

    def read_until(self, text: str) -> list[str]:
        """The lines of its output up to the first with the text."""
        lines: list[str] = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            lines.append(line)
            if text in line:
                return lines
        raise AssertionError("".join(lines))

    def finish(self) -> tuple[str, dict[str, Any], str]:
        """The state of the run, task → (state, attempts), and what it wrote."""
        *lines, last = self.read_until("RESULT ")
        state, tasks = json.loads(last.split("RESULT ", 1)[1])
        return state, tasks, "".join(lines)


@contextmanager
def run_airflow(home: Path, dag: Path) -> Iterator[Airflow]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its tasks call headrace
    process = subprocess.Popen(
        [airflow.python(), "-c", RUNNER, str(dag)],
        env={**os.environ, **airflow.variables(home), "PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = threading.Timer(_LONGEST, process.kill)  # its output then ends
    deadline.start()
    with process:
        try:
            yield Airflow(process)
        finally:
            deadline.cancel()
            process.kill()


def snapshots(settings: Settings) -> dict[str, int]:
    tables = lake.open(settings)
    return {name: tables.table(name).current_snapshot().id for name in ("first", "second")}


def test_airflow_runs_the_dag_retries_a_failed_task_and_makes_nothing_twice(tmp_path: Path) -> None:
    root = write(tmp_path / "project", TABLES)
    settings = load_settings(root)
    airflow.home(tmp_path / "home")
    (target,) = [target for target in TARGETS if target.name == "airflow"]
    text = target.write(settings).text
    dag = tmp_path / "home" / "dags" / "tiny.py"
    dag.write_text(text.replace("timedelta(minutes=5)", "timedelta(seconds=1)"))  # between two attempts

    with run_airflow(tmp_path / "home", dag) as runner:
        with hold_build_lock(settings):  # a build by hand is under way
            runner.start()
            log = runner.read_until("[up_for_retry]")
        assert "another build is running on this project" in "".join(log)
        state, tasks, _ = runner.finish()
        assert tasks.pop("code") in (
            ["success", 2],
            ["success", 3],
        )  # the second may begin before the lock is free
        assert (state, tasks) == ("success", {stage: ["success", 1] for stage in STAGES[1:]})
        built = snapshots(settings)

        runner.start()
        state, tasks, output = runner.finish()
        assert (state, tasks) == ("success", {stage: ["success", 1] for stage in STAGES})
        assert output.count("Nothing to do") == len(STAGES)
        assert snapshots(settings) == built

        edit(root, ("return prices", "return prices.no_column"))
        runner.start()
        state, tasks, output = runner.finish()
        assert state == "failed"
        assert tasks["code"] == ["success", 1]
        assert tasks["table-first"] == ["failed", 3]
        assert tasks["table-second"][0] == "upstream_failed"
        assert "no_column" in output
        assert snapshots(settings) == built
