"""The churn demo as a new user runs it: its checks, its README, and the real file of a telecom."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import auc
from tests.docs.blocks import Reader
from tests.e2e.demos import (
    EXAMPLES,
    HEADRACE,
    DemoRun,
    await_processes,
    call_dvc,
    check_readme,
    plots_of,
    run_demo,
)
from tests.lineage.conformance import make_event_check

import headrace
from headrace.config.settings import load_settings
from headrace.workspace import Workspace

REAL_DATA = EXAMPLES.parents[1] / "shared" / "data" / "telco_churn.csv"
METRICS = {"roc_auc", "pr_auc", "log_loss", "brier"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return run_demo("churn", tmp_path_factory.mktemp("demo") / "churn")


def test_every_version_is_as_good_as_its_columns_allow(demo: DemoRun) -> None:
    facts = [demo.report["facts"][f"v{version}"] for version in (1, 2, 3)]
    assert [fact["best_auc"] for fact in facts] == sorted(fact["best_auc"] for fact in facts)
    for fact in facts:
        assert 0.75 < fact["best_auc"] < 0.9
        assert abs(fact["roc_auc"] - fact["best_auc"]) <= 0.03
    assert facts[2]["roc_auc"] > facts[0]["roc_auc"] + 0.05


def test_each_version_has_its_trainer_split_and_data(demo: DemoRun) -> None:
    project = headrace.project(demo.folder)
    trainers = ("RandomForestClassifier", "GradientBoostingClassifier", "LogisticRegression")
    for version, trainer in enumerate(trainers, 1):
        report = project.training_report("churn", version)
        assert report.parameters["estimator"] == trainer
        assert report.task == "binary"
        assert report.test.metrics.keys() > METRICS
        bound = project.table("customers", at=report.training_set.inputs["customers"])
        assert bound.snapshot == project.table("customers", at=f"v{version}").snapshot
        assert bound.snapshot == project.table("customers", at=f"version.churn.{version}").snapshot


def test_a_version_of_the_table_is_the_file_that_it_was_made_from(demo: DemoRun, tmp_path: Path) -> None:
    project = headrace.project(demo.folder)
    for version, columns in ((1, 7), (2, 9), (3, 13)):
        file = pl.read_csv(write_version(demo.folder, tmp_path, version), infer_schema=False)
        assert file.width == columns
        rows = project.table("customers", at=f"v{version}").to_polars().sort("CustomerId")
        expected = file.select(
            "CustomerId",
            pl.col("Age", "Tenure").cast(pl.Int64),
            "ContractType",
            MonthlyCharges=pl.col("MonthlyCharges").cast(pl.Float64),
            TotalCharges=pl.col("TotalCharges").replace(" ", None).cast(pl.Float64),
            Churned=pl.col("Churned") == "Yes",
        ).sort("CustomerId")
        assert_frame_equal(rows.select(expected.columns), expected)
        assert set(rows.columns) == {*file.columns, "valid_from"}


def write_version(project: Path, folder: Path, version: int) -> Path:
    """Writes a version of the file into another folder, by the project's own generator."""
    shutil.copy(project / "generate.py", folder)
    command = [sys.executable, "generate.py", "--version", str(version)]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder / "data" / "customers.csv"


def test_outcomes_tell_how_good_the_arms_are(demo: DemoRun) -> None:
    report = headrace.project(demo.folder).outcomes("churn")
    known = report.rows.drop_nulls("outcome")
    for arm in report.arms:
        part = known.filter(pl.col("release") == arm.release, pl.col("arm") == arm.arm)
        right = (part["value"] >= 0.5) == part["outcome"]
        assert arm.known == len(part)
        if arm.known:
            assert arm.metrics["accuracy"] == pytest.approx(right.mean())
    assert {arm.version for arm in report.arms if arm.known} == {1, 2}


def test_the_page_on_outcomes_works_in_this_project(demo: DemoRun) -> None:
    reader = Reader(demo.folder)
    try:
        reader.follow(EXAMPLES.parent / "docs" / "guide" / "outcomes.md", "churn")
    finally:
        reader.stop()


def test_lineage_conforms_and_nothing_is_open(demo: DemoRun) -> None:
    check = make_event_check()
    with Workspace(load_settings(demo.folder)) as workspace:
        runs = workspace.lineage.runs(limit=10_000)
        for run in runs:
            assert run.outcome == "COMPLETE"
            events = workspace.lineage.events(run.id)
            for event in events:
                check(event)
            if events:
                assert (events[0]["eventType"], events[-1]["eventType"]) == ("START", "COMPLETE")
        names = [run.job for run in runs]
        assert [names.count(f"{job} churn") for job in ("train", "register")] == [3, 3]
        jobs = {name for name in names if name.endswith(" churn")} - {"release churn"}
        assert {name for name in jobs if names.count(name) % 3} == set()  # the same names for every version
        (trained,) = workspace.lineage.events(next(run.id for run in runs if run.job == "train churn"))[-1][
            "outputs"
        ]
        model = trained["facets"]["headrace_model"]
        assert model["metrics"].keys() > METRICS
        assert model["params"]["estimator"] == "LogisticRegression"


def test_dvc_shows_the_metrics_and_plots_of_the_newest_version(demo: DemoRun) -> None:
    test = headrace.project(demo.folder).training_report("churn", 3).test
    shown = call_dvc(demo.folder, "metrics", "show")[""]["data"]["metrics/churn.json"]["data"]
    assert shown.items() >= {**test.metrics, "test_rows": test.rows}.items()
    plots = plots_of(demo.folder)
    assert plots == {
        "plots/churn/roc.csv": ("false positive rate", "true positive rate", test.curves.roc),
        "plots/churn/precision.csv": ("recall", "precision", test.curves.pr),
        "plots/churn/calibration.csv": (
            "mean score",
            "share that is 1",
            [(tenth.mean_score, tenth.share) for tenth in test.calibration],
        ),
    }
    area = auc(*zip(*plots["plots/churn/roc.csv"][2], strict=True))
    assert area == pytest.approx(test.metrics["roc_auc"], abs=0.01)  # of 200 points; mirrored it would be 0.12
    assert area > 0.8


def test_readme_shows_what_is_printed(demo: DemoRun) -> None:
    assert check_readme(demo, EXAMPLES / "churn" / "README.md") >= 4


def test_readme_shows_the_figures_of_the_demo(demo: DemoRun) -> None:
    """check_readme lets numbers differ."""
    readme = (EXAMPLES / "churn" / "README.md").read_text()
    printed = subprocess.run([HEADRACE, "lineage", "churn@2"], cwd=demo.folder, capture_output=True, text=True)
    assert metrics_of(readme) == pytest.approx(metrics_of(printed.stdout), abs=2e-4)
    assert f"all {demo.report['facts']['runs']} runs are closed" in readme


def metrics_of(text: str) -> dict[str, float]:
    """The metrics of version 2, as `headrace lineage` prints them."""
    match = re.search(r"^model churn@2 .*\n +metrics: (.*)$", text, re.MULTILINE)
    assert match is not None
    return {name: float(value) for name, value in (metric.split() for metric in match[1].split(", "))}


def test_no_process_is_left_running(demo: DemoRun) -> None:
    await_processes(demo.folder)


@pytest.mark.skipif(not REAL_DATA.is_file(), reason=f"the real data are not there: {REAL_DATA}")
def test_demo_runs_on_the_real_file(tmp_path: Path) -> None:
    run = run_demo("churn", tmp_path / "churn", "--data", str(REAL_DATA))
    assert run.report["facts"]["unbilled"] == 11  # the blanks in TotalCharges
    project = headrace.project(run.folder)
    rows = project.table("customers").to_polars()
    raw = pl.read_csv(REAL_DATA, infer_schema=False)
    assert len(rows) == len(raw) == 7_043
    total = raw.select(pl.col("TotalCharges").replace(" ", None).cast(pl.Float64)).to_series()
    joined = raw.select(CustomerId="customerID", wanted=total).join(rows, on="CustomerId", how="inner")
    assert joined["wanted"].equals(joined["TotalCharges"])
    await_processes(tmp_path)
