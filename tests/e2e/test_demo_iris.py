"""The demo of iris as a new user runs it, what its README shows, and what it says when something goes wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from tests.e2e.demos import EXAMPLES, HEADRACE, DemoRun, await_processes, check_readme, follow_readme, run_demo

import headrace
from headrace.declare.splits import Stratified
from headrace.training.splits import divide

README = EXAMPLES / "iris" / "README.md"
BIN = HEADRACE.parent


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    who = {f"GIT_{role}_{part}": "a" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    return subprocess.run(
        command, cwd=folder, env=environment | who, capture_output=True, text=True, timeout=300, check=False
    )


def succeed(folder: Path, *command: str) -> str:
    done = call(folder, *command)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return run_demo("iris", tmp_path_factory.mktemp("demo") / "iris")


def test_demo_runs_every_step_and_leaves_no_process(demo: DemoRun) -> None:
    assert len(demo.report["checks"]) == 16
    await_processes(demo.folder)


def test_readme_shows_what_the_commands_print(demo: DemoRun) -> None:
    assert check_readme(demo, README) == 4


def test_each_command_of_the_readme_succeeds(demo: DemoRun) -> None:
    """In the demo's project: the commands that make the project and its commits are the demo's own steps, and
    the test above runs those whose output is shown."""
    steps = [
        "git init iris",
        "headrace init iris --example iris",
        "cd iris",
        'git commit -m "Data v1"',
        "git tag v1",
        "dvc remote add --default shared ../shared",
        'git commit -m "Support vector machine"',
    ]
    follow_readme(README, demo.folder, dict.fromkeys(steps, "true"), shown=False)


def test_metrics_and_confusion_matrix_are_those_of_scikit_learn(demo: DemoRun) -> None:
    with (demo.folder / "plots" / "species" / "confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["actual"] for row in rows) == {"setosa": 15, "versicolor": 15, "virginica": 15}
    actual, predicted = ([row[axis] for row in rows] for axis in ("actual", "predicted"))
    metrics = json.loads((demo.folder / "metrics" / "species.json").read_text())
    assert metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))


def test_metrics_and_served_probabilities_are_those_of_scikit_learn_on_the_same_rows(demo: DemoRun) -> None:
    """The same estimator fitted on the same rows by scikit-learn alone. The model has no entities: each feature
    comes from the request."""
    project = headrace.project(demo.folder)
    rows = project.training_set("species").to_polars()
    measurements = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    features = [name for name in rows.columns if name.startswith("shape__")]
    rows = rows.select(*measurements, "event_timestamp", "species", *features)
    ((train, _, test),) = divide(
        rows, Stratified(validation=0.2, test=0.3, seed=7), "species", by_class=True
    ).folds

    def numbers(frame: pl.DataFrame) -> np.ndarray:
        return frame.select(pl.col(features).cast(pl.Float32).cast(pl.Float64)).to_numpy()

    report = project.training_report("species")
    chosen = {name: report.parameters[f"estimator__{name}"] for name in ("C", "gamma")}
    estimator = CalibratedClassifierCV(SVC(**chosen, random_state=0), ensemble=False)
    alone = make_pipeline(StandardScaler(), estimator).fit(numbers(train), train["species"].to_numpy())
    predicted, probabilities = alone.predict(numbers(test)), alone.predict_proba(numbers(test))
    assert report.test.metrics == pytest.approx(
        {
            "accuracy": accuracy_score(test["species"], predicted),
            "macro_f1": f1_score(test["species"], predicted, average="macro"),
            "log_loss": log_loss(test["species"], probabilities),
        },
        abs=1e-6,
    )
    served = project.table("headrace_predictions").to_polars().sort("at").row(0, named=True)
    flower = json.loads(served["request"])
    areas = {
        f"shape__{part}_area_cm": flower[f"{part}_length"] * flower[f"{part}_width"]
        for part in ("sepal", "petal")
    }
    asked = pl.DataFrame({**{f"shape__{name}_cm": flower[name] for name in measurements}, **areas})
    (expected,) = alone.predict_proba(numbers(asked))
    assert json.loads(served["probabilities"]) == pytest.approx(
        dict(zip(alone.classes_, expected, strict=True)), abs=1e-6
    )
    assert json.loads(served["value"]) == alone.classes_[expected.argmax()]
    assert json.loads(served["entity"]) == {}


def test_both_versions_of_the_data_are_the_published_and_the_corrected_flowers(demo: DemoRun) -> None:
    published, corrected = (
        headrace.project(demo.folder).source("iris", revision=tag).collect() for tag in ("v1", "v2")
    )
    measured = corrected.select(corrected.columns[1:5]).to_numpy()
    assert (measured == load_iris().data).all()  # scikit-learn has the corrected ones
    different = (published.select(corrected.columns[1:5]).to_numpy() != measured).any(axis=1)
    assert [number for number, differs in enumerate(different, 1) if differs] == [35, 38]


def test_each_build_is_one_run_in_mlflow_with_a_nested_run_for_each_step(demo: DemoRun) -> None:
    mlflow.set_tracking_uri(headrace.project(demo.folder).settings.registry.mlflow_url)
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_parent: dict[str | None, list[mlflow.entities.Run]] = {}
    for run in runs:
        by_parent.setdefault(run.data.tags.get("mlflow.parentRunId"), []).append(run)
    builds = [run for run in by_parent[None] if run.info.run_name == "build"]
    assert len(builds) == 2
    for build, tag in zip(sorted(builds, key=lambda run: run.info.start_time), ("v1", "v2"), strict=True):
        nested = {run.info.run_name: run for run in by_parent[build.info.run_id]}
        assert nested.keys() >= {"stage source-iris", "stage table-flowers", "stage release-species"}
        training = nested["train species"]
        assert training.data.tags["headrace.revision.iris"].startswith(f"{tag}@")
        steps = {run.info.run_name for run in by_parent[training.info.run_id]}
        assert steps >= {"split species", "tuning species", "fit species", "evaluation species"}


@pytest.fixture(scope="module")
def clone(demo: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with what `dvc pull` brings, and no state."""
    folder = tmp_path_factory.mktemp("clone")
    succeed(folder, "git", "clone", "--quiet", str(demo.folder), "clone")
    succeed(folder / "clone", "dvc", "pull", "--quiet")
    assert "up to date" in succeed(folder / "clone", "dvc", "status")
    return folder / "clone"


def test_in_a_clone_with_the_same_state_the_build_has_nothing_to_do(
    demo: DemoRun, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_STATE", str(demo.folder / ".headrace"))
    assert succeed(clone, "headrace", "build").startswith("Nothing to do")
    assert succeed(clone, "git", "status", "--porcelain") == ""


def test_in_a_clone_with_a_state_of_its_own_the_build_trains_nothing(demo: DemoRun, clone: Path) -> None:
    stages = [line.split()[0] for line in succeed(clone, "headrace", "build").splitlines() if line[:2] == "  "]
    assert {"table-flowers", "training_set-species", "release-species"} <= set(stages)
    original, cloned = headrace.project(demo.folder), headrace.project(clone)
    (run,) = {project.training_report("species").run for project in (original, cloned)}
    assert cloned.runs("train species") == []
    assert run
    report = cloned.training_report("species")
    for table, snapshot in {
        **report.training_set.inputs,
        "training_species": report.training_set.snapshot,
    }.items():
        rows = [project.table(table, at=snapshot).to_polars() for project in (original, cloned)]
        assert_frame_equal(*rows, check_row_order=False)
    changed = succeed(clone, "git", "status", "--porcelain").split()[1::2]
    assert changed == ["dvc.lock", "pointers/release/species.json"]  # the number of the version
    assert succeed(clone, "headrace", "build").startswith("Nothing to do")
    assert "up to date" in succeed(clone, "dvc", "status")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project before its data have a tag. Git tracks them, which takes less time than DVC."""
    root = tmp_path_factory.mktemp("wrong") / "iris"
    root.mkdir()
    succeed(root, "git", "init", "--quiet")
    succeed(root.parent, "headrace", "init", "iris", "--example", "iris")
    return root


def tag(project: Path, name: str) -> None:
    succeed(project, "git", "add", "--all")
    succeed(project, "git", "commit", "--quiet", "--allow-empty", "--message", name)
    succeed(project, "git", "tag", "--force", name)


def replace(old: str, new: str) -> Callable[[str], bytes]:
    """An edit that replaces a text, once."""

    def edit(text: str) -> bytes:
        assert old in text
        return text.replace(old, new, 1).encode()

    return edit


PARAMS, DATA = "params.yaml", "data/iris.csv"
WRONG: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "an unknown name in the grid": (PARAMS, replace("    C:", "    c:")),
    "an unknown estimator": (PARAMS, replace("estimator: log", "estimator: forest  # log")),
    "an unknown entry": (PARAMS, replace("\ngrid:", "\ngirds:")),
    "an unknown tag": (PARAMS, replace("data: v1", "data: v9")),
    "another name of a column": (DATA, replace("species", "Species")),
    "a text among the numbers": (DATA, replace("\n4,4.6,", "\n4,n.a.,")),
    "no measurement": (DATA, replace("\n4,4.6,", "\n4,,")),
    "another encoding": (
        DATA,
        lambda text: text.replace("1.5,0.2,setosa", "1.5,0.2,sétosa", 1).encode("latin-1"),
    ),
    "a target with one class": (DATA, lambda text: "\n".join(text.split("\n")[:51]).encode()),
    "an empty file": (DATA, lambda _: b""),
}
MESSAGES = re.findall(r"^```\n(error: .*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("case", "message"), list(zip(WRONG, MESSAGES, strict=True)), ids=list(WRONG))
def test_wrong_input_gets_the_message_of_the_readme(project: Path, case: str, message: str) -> None:
    name, change = WRONG[case]
    file = project / name
    good = file.read_text()
    file.write_bytes(change(good))
    tag(project, "v1")
    done = call(project, "headrace", "build")
    file.write_text(good)
    assert done.returncode != 0
    assert done.stderr.replace(f"{project}/", "").endswith(message)
