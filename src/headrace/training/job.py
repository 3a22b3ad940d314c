"""The training of one version, from snapshots to a bundle that is ready to be registered.

What it leaves in its folder: the bundle but for the source archive and the seal, which are the
registry's. A training that was killed is taken up where that costs nothing: the training set is
found again, and so is a bundle that was written to its end.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from msgspec import Struct

from headrace.cluster.connection import connect
from headrace.declare.model import Model
from headrace.features.plan import FeaturePlan, decode_plan, encode_plan
from headrace.features.values.matrix import Matrix
from headrace.kernel.errors import ProjectError
from headrace.kernel.files import write_file
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.private import make_private
from headrace.kernel.properties import CODE, COMMIT, GATE, INPUT, RUN, TRAINING_SET
from headrace.kernel.properties import PLAN as PLAN_TAG
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake
from headrace.projects.checkout import commit_of
from headrace.projects.project import Project
from headrace.training import curves, training_set
from headrace.training.champion import as_champion_reads
from headrace.training.evaluation import Evaluation, evaluate
from headrace.training.fit import Fit, Prepared, Progress, final_fit, matrix_of, prepare
from headrace.training.gate import Verdict, judge
from headrace.training.pyfunc import PLAN, write_mlmodel
from headrace.training.split import Parts, by_time
from headrace.training.trainers import xgboost
from headrace.training.training_set import Rows, TrainingSet
from headrace.training.tuning import Trial, search

__all__ = ["PLAN", "Report", "TrainedVersion", "train"]

REPORT, MODEL = "training.json", "model"


class Report(Struct, frozen=True, kw_only=True):
    """What `training.json` holds: how the version came to be, and what it is worth.

    Attributes:
        model: its name.
        run: the id of the run that trained it.
        code: the fingerprint of the model's declaration.
        commit: the git commit of the project, `-dirty` behind it where its files differ; None: no git.
        training_set: which rows; its snapshots are pinned.
        parts: part → rows; `dropped` lay in the gaps.
        validation_from, test_from: where the parts begin, ISO 8601.
        parameters: of the fit, the trainer's and those that were found.
        rounds: how many trees.
        trials: what the search tried, the best first.
        validation, test: metrics of the parts; the test part was held out.
        champion: the champion's metrics on the same test rows, or None.
        champion_lacks: features that the champion reads and the test rows do not have, so that it could not be
            tried on them.
        importance: feature → share of the gain.
        gate: what the gate said.
        incomplete: rows that were left out, because serving would refuse to answer them (`missing="refuse"`).
        infinite: feature → in how many rows it was infinite, and so missing.
    """

    model: str
    run: str
    code: str
    training_set: TrainingSet
    parts: dict[str, int]
    validation_from: str
    test_from: str
    parameters: dict[str, Any]
    rounds: int
    trials: list[Trial]
    validation: Evaluation
    test: Evaluation
    champion: dict[str, float] | None
    importance: dict[str, float]
    gate: Verdict
    commit: str | None = None
    champion_lacks: list[str] = []
    incomplete: int = 0
    infinite: dict[str, int] = {}

    @property
    def tags(self) -> dict[str, str]:
        """Where the version comes from: run, code, commit, plan, rows, and what the gate said."""
        made = self.training_set
        return {
            RUN: self.run,
            CODE: self.code,
            **({} if self.commit is None else {COMMIT: self.commit}),
            PLAN_TAG: made.plan,
            TRAINING_SET: f"{made.table}@{made.snapshot}",
            **{f"{INPUT}{name}": str(snapshot) for name, snapshot in made.inputs.items()},
            GATE: "passed" if self.gate.passed else "refused",
        }


class TrainedVersion(Struct, frozen=True):
    """A version that is ready to be registered: its files, and what MLflow shall know of it.

    Attributes:
        bundle: the folder of its files.
        report: as `training.json` has it.
        resumed: it had been trained before, from the same rows by the same code.
    """

    bundle: Path
    report: Report
    resumed: bool

    @property
    def metrics(self) -> dict[str, float]:
        """The held-out metrics by their names, those of the validation part as `validation_...`."""
        return {
            **self.report.test.metrics,
            **{f"validation_{name}": value for name, value in self.report.validation.metrics.items()},
            "base_rate": self.report.test.base_rate,
            "test_rows": self.report.test.rows,
        }

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the fit."""
        return {**self.report.parameters, "rounds": self.report.rounds}

    @property
    def tags(self) -> dict[str, str]:
        """Where the version comes from (Report.tags)."""
        return self.report.tags


def train(
    project: Project,
    lake: Lake,
    model: Model,
    plan: FeaturePlan,
    *,
    code: str = "",
    champion: Path | None = None,
    inputs: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> TrainedVersion:
    """Trains a version of the model, and judges it.

    Starts Ray, unless the process is connected to the project's already.

    Args:
        project, lake: whose.
        model: what is declared.
        plan: its features.
        code: the fingerprint of the declaration; with it, a training that was done before is found.
        champion: the checked bundle of the present champion, to be tried on the same test rows.
        inputs: table → the snapshot to read; of tables that it does not name, the newest.
        progress: told of each trial.

    Raises:
        Refused: there are too few labels, or a part has one class only.
        ProjectError: the declaration does not fit the data.
        Unavailable: Ray does not start.
    """
    with run(f"train {model.name}") as this:
        made = training_set.make(project, lake, model, plan, inputs=inputs)
        this.input(Dataset("table", made.table, SnapshotPosition(made.table, made.snapshot)))
        commit = commit_of(project.settings)  # as it stood when the work began
        work = make_private(project.settings.place("training", model.name))
        bundle = work / f"{made.snapshot}-{code or this.id}"
        trained = _resumed(bundle, code)
        if trained is None:
            for left in work.glob("*"):  # of trainings before this one
                shutil.rmtree(left)
            rows = training_set.read(lake, made, plan, model.target)
            parts = by_time(rows.frame, model.split, model.target)
            prepared = prepare(parts, model.target, plan)
            fitted, trials = _fitted(project, model, prepared, work / "ray", progress)
            predictor = fitted.save(bundle / MODEL, prepared)
            rival = _try_champion(project, lake, champion, plan, parts.test, model.target, made)
            report = _report(
                model, this.id, code, made, rows, parts, prepared, fitted, trials, predictor, rival, commit
            )
            _write(bundle, plan, report)
            trained = TrainedVersion(bundle, report, False)
        # Until it is registered, a bundle goes by the run that trained it.
        this.output(Dataset("model", f"{model.name}@{trained.report.run}"))
        this.fact(params=trained.params, metrics=trained.metrics, gate=msgspec.to_builtins(trained.report.gate))
    return trained


def _resumed(bundle: Path, code: str) -> TrainedVersion | None:
    path = bundle / REPORT
    if not code or not path.is_file():
        return None
    return TrainedVersion(bundle, msgspec.json.decode(path.read_bytes(), type=Report), True)


def _fitted(
    project: Project, model: Model, prepared: Prepared, folder: Path, progress: Progress | None
) -> tuple[Fit, list[Trial]]:
    with connect(project.settings):
        try:
            trials = [] if model.tune is None else search(prepared, model, model.tune, folder, progress)
            seed = 0 if model.tune is None else model.tune.seed
            best = trials[0].parameters if trials else {}
            apart = not project.settings.cluster.is_local
            return final_fit(prepared, model, best, folder, seed=seed, apart=apart), trials
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _report(
    model: Model,
    run_id: str,
    code: str,
    made: TrainingSet,
    rows: Rows,
    parts: Parts,
    prepared: Prepared,
    fitted: Fit,
    trials: list[Trial],
    predictor: xgboost.Predictor,
    rival: _Rival,
    commit: str | None,
) -> Report:
    test = evaluate(prepared.test[1], predictor.predict(prepared.test[0]))
    return Report(
        model=model.name,
        run=run_id,
        code=code,
        training_set=made,
        parts={**{name: len(part) for name, part in parts}, "dropped": parts.dropped},
        validation_from=parts.validation_from.isoformat(),
        test_from=parts.test_from.isoformat(),
        parameters=fitted.parameters,
        rounds=fitted.rounds,
        trials=trials,
        validation=evaluate(prepared.validation[1], fitted.validation),
        test=test,
        champion=rival.metrics,
        importance=fitted.importance,
        champion_lacks=rival.lacking,
        gate=judge(model.gate, test.metrics, rival.metrics, lacking=rival.lacking),
        commit=commit,
        incomplete=rows.incomplete,
        infinite=rows.infinite,
    )


class _Rival(NamedTuple):
    """The champion on the test rows: its metrics, and the features that it lacks there."""

    metrics: dict[str, float] | None
    lacking: list[str]


def _try_champion(
    project: Project,
    lake: Lake,
    champion: Path | None,
    plan: FeaturePlan,
    test: pl.DataFrame,
    target: str,
    made: TrainingSet,
) -> _Rival:
    if champion is None:
        return _Rival(None, [])
    own = decode_plan((champion / PLAN).read_bytes())
    rows = as_champion_reads(own, plan, test, made.inputs, training_set.reader(project, lake, made.inputs))
    return _Rival(champion_metrics(champion, rows, target), lacking_features(champion, rows))


def champion_metrics(champion: Path, test: pl.DataFrame, target: str) -> dict[str, float] | None:
    """The champion's metrics on these rows, by the columns of its own plan.

    None where it takes a feature that the rows do not have: it can't be tried on them. A row that it would
    refuse to answer is one with missing features here: both versions are tried on the same rows.
    """
    plan = decode_plan((champion / PLAN).read_bytes())
    columns = [one.column for one in plan.features]
    if lacking_features(champion, test):
        return None
    predictor = xgboost.load(champion / MODEL)
    if list(predictor.features) != columns:
        raise ProjectError("the model and the plan of the champion do not fit", where=str(champion))
    scores = predictor.predict(matrix_of(test, Matrix(plan, predictor.meta.encoding)))
    return evaluate(test[target].cast(pl.Float64).to_numpy(), np.asarray(scores)).metrics


def lacking_features(champion: Path, test: pl.DataFrame) -> list[str]:
    """The features that the champion reads and these rows do not have, sorted."""
    plan = decode_plan((champion / PLAN).read_bytes())
    return sorted({feature.column for feature in plan.features} - set(test.columns))


def _write(bundle: Path, plan: FeaturePlan, report: Report) -> None:
    """The files of the bundle; the report comes last, and says that it is whole."""
    (bundle / PLAN).write_bytes(msgspec.json.format(encode_plan(plan), indent=1))
    write_mlmodel(bundle, plan)
    (bundle / "evaluation.svg").write_text(curves.svg(report.test), encoding="utf-8")
    text = msgspec.json.format(msgspec.json.encode(report, order="sorted"), indent=1)
    write_file(bundle / REPORT, text)
