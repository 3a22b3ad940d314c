"""The demo as a new user runs it: all its checks pass, and no process is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xgboost
from tests.e2e.demos import EXAMPLES, HEADRACE, await_processes, run_demo

import headrace
from headrace.declare.splits import ByTime
from headrace.declare.trainers import XGBoost
from headrace.features.plan import decode_plan
from headrace.training.evaluation import evaluator_for
from headrace.training.matrices import to_matrices
from headrace.training.splits import divide
from headrace.training.trainers.port import Budget
from headrace.training.trainers.xgboost import MODEL, XGBoostTrainer

REAL_DATA = EXAMPLES.parents[1] / "shared" / "data" / "rees46_2019_oct_17k.csv"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_demo("shop", tmp_path_factory.mktemp("demo") / "shop", "--rows", "60000").report


def test_demo_runs_every_step_and_check(demo: dict[str, Any]) -> None:
    assert len(demo["checks"]) == 6
    steps = [step["name"].strip() for step in demo["steps"]]
    for name in ("init", "generate", "send", "ingest", "build", "up", "predict", "collect", "why", "down"):
        assert name in steps


def test_model_is_nearly_as_good_as_possible(demo: dict[str, Any]) -> None:
    facts = demo["facts"]
    assert 0.75 < facts["best_auc"] < 0.9
    assert abs(facts["best_auc"] - facts["metrics"]["roc_auc"]) <= 0.03
    assert facts["metrics"]["pr_auc"] > 1.5 * facts["base_rate"]
    assert "refused" not in facts


# SQLAlchemy and pydantic are loaded by dataframely, which the example's own tables import.
HEAVY = (
    "pyiceberg",
    "pandas",
    "pyarrow.dataset",
    "feast",
    "mlflow",
    "ray",
    "xgboost",
    "sklearn",
    "dvc",
    "requests",
)


@pytest.mark.parametrize("verb", ["why", "check", "quarantine"])
def test_verbs_that_only_read_load_nothing_heavy(demo: dict[str, Any], verb: str) -> None:
    arguments = {
        "why": ["why", demo["facts"]["prediction"]],
        "check": ["check", "parity"],
        "quarantine": ["quarantine", "show", "user_behaviour"],
    }[verb]
    script = (
        "import sys\nfrom headrace.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print(*sorted(name for name in {HEAVY} if name in sys.modules))"
    )
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, cwd=demo["folder"], capture_output=True, text=True, check=True, timeout=300)
    assert out.stdout.splitlines()[-1] == ""


def test_no_process_is_left_running(demo: dict[str, Any]) -> None:
    await_processes(Path(demo["folder"]))


def test_project_can_be_used_after_the_demo(demo: dict[str, Any]) -> None:
    why = [HEADRACE, "why", demo["facts"]["prediction"], "--json", "--project", demo["folder"]]
    answer = json.loads(subprocess.run(why, capture_output=True, text=True, check=True).stdout)
    assert answer["equal"] is True
    assert answer["prediction"]["id"] == demo["facts"]["prediction"]
    parity = [HEADRACE, "check", "parity", "--json", "--project", demo["folder"]]
    assert subprocess.run(parity, capture_output=True, text=True, check=False).returncode == 0
    build = [HEADRACE, "build", "--json", "--project", demo["folder"]]
    built = json.loads(subprocess.run(build, capture_output=True, text=True, check=True).stdout)
    assert [s["stage"] for s in built["stages"] if "train" in s["stage"]] == []  # refresh: within the day


def test_model_learns_nothing_from_shuffled_labels(demo: dict[str, Any]) -> None:
    opened = headrace.project(demo["folder"])
    rows = opened.training_set("purchase").to_polars()
    plan = decode_plan(Path(demo["folder"], "pointers", "plans", "purchase.json").read_bytes())
    scores, trainer = {}, XGBoostTrainer()
    declared = XGBoost(100, 10, max_depth=4, learning_rate=0.1, objective="binary:logistic")
    for shuffled in (False, True):
        if shuffled:
            rows = rows.with_columns(pl.col("is_purchased").shuffle(seed=1))
        parts = divide(rows, ByTime(0.15, 0.15, gap="30m"), "is_purchased")
        matrices = to_matrices(parts, "is_purchased", plan)
        fitted = trainer.fit(trainer.prepare(matrices.final), declared, {}, seed=0, budget=Budget())
        booster = xgboost.Booster(model_file=bytearray(fitted.files[MODEL]))
        answers = booster.inplace_predict(matrices.test.matrix)
        scores[shuffled] = evaluator_for("binary").metric("roc_auc", matrices.test.target, answers)
    assert scores[False] > 0.8
    assert scores[True] == pytest.approx(0.5, abs=0.03)  # over two standard deviations of 7,000 rows


@pytest.mark.skipif(not REAL_DATA.is_file(), reason=f"the real data are not there: {REAL_DATA}")
def test_demo_runs_on_real_data(tmp_path: Path) -> None:
    report = run_demo("shop", tmp_path / "shop", "--data", str(REAL_DATA)).report
    sent = next(step for step in report["steps"] if step["name"] == "send")
    assert sent["rows"] == 17_435  # the last line is truncated: it is sent and refused
    ingested = next(step for step in report["steps"] if step["name"] == "ingest")
    assert "good 17,410" in ingested["what"]
    why = [HEADRACE, "why", report["facts"]["prediction"], "--json", "--project", report["folder"]]
    answer = json.loads(subprocess.run(why, capture_output=True, text=True, check=True).stdout)
    assert answer["release"]["override"] is ("refused" in report["facts"])
    await_processes(tmp_path)
