"""The demo multi_python as a new user runs it: other people's models, each on its own Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.demos import EXAMPLES, DemoRun, check_readme, processes_of, run_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return run_demo("multi_python", tmp_path_factory.mktemp("demo") / "multi_python")


def test_demo_runs_every_step(demo: DemoRun) -> None:
    steps = [step["name"].strip() for step in demo.report["steps"]]
    for name in (
        "pythons",
        "mlflow",
        "train",
        "deploy",
        "up",
        "predict",
        "wrong column",
        "kill",
        "rollback",
        "down",
    ):
        assert name in steps


def test_no_process_is_left_running(demo: DemoRun) -> None:
    assert list(processes_of(demo.folder)) == []


def test_readme_shows_what_is_printed(demo: DemoRun) -> None:
    assert check_readme(demo, Path(EXAMPLES, "multi_python", "README.md")) == 2
