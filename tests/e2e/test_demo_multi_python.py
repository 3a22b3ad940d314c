"""The demo multi_python as a new user runs it: other people's models, each on its own Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.docs.blocks import PORT_VARIABLES, Reader
from tests.e2e.demos import EXAMPLES, DemoRun, await_processes, check_readme, run_demo

from headrace.config.settings import load_settings
from headrace.kernel.addresses import path_of_sqlalchemy

DOCS = EXAMPLES.parent / "docs"


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
    await_processes(demo.folder)


def test_readme_shows_what_is_printed(demo: DemoRun) -> None:
    assert check_readme(demo, Path(EXAMPLES, "multi_python", "README.md")) == 2


def test_the_pages_on_models_of_mlflow_work_in_a_new_project(demo: DemoRun, tmp_path: Path) -> None:
    """With a model of the demo, whose packages uv has; under the names that the pages give it."""
    from mlflow import MlflowClient

    database = path_of_sqlalchemy(load_settings(demo.folder).registry.mlflow_url)
    assert database is not None
    shutil.copy(database, tmp_path / "mlflow.db")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(address, address)
    names = sorted(model.name for model in client.search_registered_models())
    trained, *others = [name for name in names if name != "iris_broken"]
    for name in (*others, "iris_broken"):
        client.delete_registered_model(name)
    for name in ("iris", "churn"):
        copy = client.copy_model_version(f"models:/{trained}/1", name)
        for tag in copy.tags:
            client.delete_model_version_tag(name, copy.version, tag)
        client.set_registered_model_alias(name, "production", copy.version)
    reader = Reader(
        tmp_path, addresses={"https://mlflow.example.org": address}, **dict.fromkeys(PORT_VARIABLES, "0")
    )
    try:
        reader.follow(DOCS / "how-to" / "move_from_mlflow.md", "multi_python")
        reader.follow(DOCS / "guide" / "deploy.md", "multi_python")
    finally:
        code = reader.stop()
    assert code == 0
    await_processes(tmp_path)
