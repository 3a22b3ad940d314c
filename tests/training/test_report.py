"""The training report: it is read as it was written, without Ray, MLflow or a trainer's library."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headrace.declare.gate import at_least
from headrace.training.evaluation import evaluator_for
from headrace.training.gate import judge
from headrace.training.report import TrainingReport, TrainingSet, Trial, read_report, write_report

OUTPUTS = {
    "binary": ([0, 1, 1], [0.2, 0.7, 0.9], ()),
    "multiclass": ([0, 1, 2], np.eye(3), ("a", "b", "c")),
    "regression": ([1.0, 2.5], [1.5, 2.0], ()),
}


def make_report(task: str) -> TrainingReport:
    target, outputs, classes = OUTPUTS[task]
    evaluation = evaluator_for(task).evaluate(target, outputs, classes)
    return TrainingReport(
        model="m",
        task=task,
        training_set=TrainingSet("m", "training_m", 7, {"labels": 5}, "plan", 3, 0),
        split="by time",
        parts={"train": 1, "validation": 1, "test": 1, "dropped": 0},
        boundaries={"test": "2026-01-01T00:00:00+00:00"},
        parameters={"num_boost_round": 3},
        trials=[Trial({"depth": 3}, None, {"num_boost_round": 3}, 0.5)],
        validation=evaluation,
        test=evaluation,
        champion=None,
        importance={"f": 1.0},
    )


@pytest.mark.parametrize("task", list(OUTPUTS))
def test_a_report_is_read_as_it_was_written(task: str, tmp_path: Path) -> None:
    report = make_report(task)
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert report.metrics == {**report.test.metrics, **report.test.baseline}
    assert [path.name for path in tmp_path.iterdir()] == ["training.json"]


def test_a_report_that_was_not_judged_has_not_passed() -> None:
    report = make_report("binary")
    assert not report.gate.passed
    assert report.tags["headrace.gate"] == "refused"
    assert judge([at_least("roc_auc", 0.5)], report.test.metrics, None).passed


def test_reading_a_report_loads_no_engine(tmp_path: Path) -> None:
    write_report(tmp_path, make_report("binary"))
    code = (
        "import sys; from pathlib import Path; from headrace.training.report import read_report;"
        "read_report(Path(sys.argv[1]));"
        "print([m for m in ('ray', 'mlflow', 'xgboost', 'sklearn', 'optuna', 'feast') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"
