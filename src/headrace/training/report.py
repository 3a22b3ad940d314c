"""The training report, `training.json` in a bundle: how a version was trained, and how good it is.

Reading it loads neither Ray nor a trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.kernel.files import write_file
from headrace.kernel.properties import CODE, COMMIT, GATE, INPUT, PLAN, REVISION, RUN, TRAINING_SET
from headrace.training.evaluation import Evaluation
from headrace.training.files import REPORT
from headrace.training.gate import GateResult

__all__ = ["FoldResult", "TrainingReport", "TrainingSet", "Trial", "read_report", "write_report"]


class TrainingSet(Struct, frozen=True):
    """A training set.

    Attributes:
        model: the name of the model.
        table, snapshot: where its rows are stored: the join keys, `event_timestamp`, the request's fields,
            the target, and a column `view__feature` for each feature of the plan.
        inputs: table → the snapshot that was read.
        plan: the digest of the feature plan.
        rows: how many rows it has.
        refused: how many rows were left out because their label is null.
        revisions: source → the git revision that its inputs were made from, `v1@COMMIT`, for the sources that
            name one.
        failed: how many rows were left out because an on-demand function fails on them.
        failures: the first three of these, each with the error.
        digest: the digest of its rows (tables.twin).
        keyless: join key → in how many rows it is null. The features of its views are null there, and serving
            would refuse such an instance.
    """

    model: str
    table: str
    snapshot: int
    inputs: dict[str, int]
    plan: str
    rows: int
    refused: int
    revisions: dict[str, str] = {}
    failed: int = 0
    failures: list[str] = []
    digest: str | None = None
    keyless: dict[str, int] = {}


class Trial(Struct, frozen=True):
    """A trial of the search.

    Attributes:
        parameters: the values that the search tried.
        value: the metric on the validation part, the mean over the folds; None if an output of a fitted model
            was NaN or infinite.
        chosen: the parameters that the fit of the last fold chose itself, such as the number of rounds.
        seconds: how long it took.
    """

    parameters: dict[str, Any]
    value: float | None
    chosen: dict[str, float]
    seconds: float


class FoldResult(Struct, frozen=True):
    """A fold of a walk-forward split: a model that was fitted in it, on its test window.

    Attributes:
        test_from: the first moment of the test window, ISO 8601.
        rows: part → how many rows.
        metrics: of the model.
        baseline: of the declared baseline; empty without one.
    """

    test_from: str
    rows: dict[str, int]
    metrics: dict[str, float]
    baseline: dict[str, float]


class TrainingReport(Struct, frozen=True, kw_only=True):
    """How a version was trained, and how good it is.

    Attributes:
        model: the name of the model.
        task: the task of its target.
        run: the id of the run that trained it.
        code: the fingerprint of the model's declaration.
        commit: the git commit of the project, with `-dirty` appended if the files differ; None without git.
        training_set: the rows; their snapshots are tagged, so that they do not expire.
        split: how the rows were divided, as a phrase.
        parts: part → how many rows; `dropped` are in no part.
        boundaries: part → its first moment, ISO 8601; empty if the split is not by time.
        parameters: the parameters of the fit: the trainer's, those that the search found, and those that the
            fit chose itself.
        trials: the trials of the search, the best first.
        validation, test: evaluations of the parts; the test part was held out.
        baseline: the metrics of the declared baseline on the test part; empty without one.
        folds: the results of the folds, the last of which is the test part's; empty for a split without folds.
        champion: the champion's metrics on the same test rows, or None.
        champion_problem: why the champion could not be evaluated on them, or empty.
        importance: feature → its share of the total importance.
        gate: the result of the gate; not passed until the version is judged.
        incomplete: how many rows were left out because serving would refuse them (`missing="refuse"`).
        infinite: feature → in how many rows it was infinite, which counts as missing.
    """

    model: str
    task: Task
    training_set: TrainingSet
    split: str
    parts: dict[str, int]
    boundaries: dict[str, str]
    parameters: dict[str, Any]
    trials: list[Trial]
    validation: Evaluation
    test: Evaluation
    champion: dict[str, float] | None
    importance: dict[str, float]
    gate: GateResult = GateResult(False, ())
    run: str = ""
    code: str = ""
    commit: str | None = None
    champion_problem: str = ""
    incomplete: int = 0
    infinite: dict[str, int] = {}
    baseline: dict[str, float] = {}
    folds: list[FoldResult] = []

    @property
    def tags(self) -> dict[str, str]:
        """What the version was made from: run, code, commit, plan, rows; and the result of the gate."""
        rows = self.training_set
        return {
            RUN: self.run,
            CODE: self.code,
            **({} if self.commit is None else {COMMIT: self.commit}),
            PLAN: rows.plan,
            TRAINING_SET: f"{rows.table}@{rows.snapshot}",
            **{f"{INPUT}{name}": str(snapshot) for name, snapshot in rows.inputs.items()},
            **{f"{REVISION}{source}": revision for source, revision in rows.revisions.items()},
            GATE: "passed" if self.gate.passed else "refused",
        }

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the test part by their names, what to compare them with, and the declared baseline's
        as `baseline_...`."""
        baseline = {f"baseline_{name}": value for name, value in self.baseline.items()}
        return {**self.test.metrics, **self.test.baseline, **baseline}


def read_report(bundle: Path) -> TrainingReport:
    """The report in the folder of a bundle."""
    return msgspec.json.decode((bundle / REPORT).read_bytes(), type=TrainingReport)


def write_report(bundle: Path, report: TrainingReport) -> None:
    """Writes the report into the folder of a bundle, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(report, order="sorted"), indent=1)
    write_file(bundle / REPORT, text)
