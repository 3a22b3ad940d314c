"""Trains a version of a model, from snapshots to a bundle that is ready to be registered.

The bundle's folder then lacks only the source archive and the manifest, which the registration adds.
A repeated training reuses what an earlier one finished: the training set, and a bundle with a report.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from msgspec import Struct

from headrace.cluster.connection import connect
from headrace.declare.metrics import Task
from headrace.declare.model import Model, task_of
from headrace.features.plan import FeaturePlan, decode_plan, encode_plan
from headrace.kernel.errors import ProjectError
from headrace.kernel.files import remove_path, write_file
from headrace.kernel.ids import new_id
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.private import make_private
from headrace.kernel.run import Dataset, Run, run
from headrace.lake import Lake
from headrace.projects.checkout import commit_of
from headrace.projects.project import Project
from headrace.training import training_set
from headrace.training.champion import ChampionResult, evaluate_champion, recompute_features
from headrace.training.evaluation import evaluator_for
from headrace.training.files import MODEL, PLAN, PLOTS, REPORT
from headrace.training.fit import Progress, fit_folds, save
from headrace.training.folds import evaluate_baseline, evaluate_folds
from headrace.training.gate import GateResult, judge
from headrace.training.matrices import Matrices, to_matrices
from headrace.training.pyfunc import write_mlmodel
from headrace.training.report import TrainingReport, TrainingSet, Trial, read_report, write_report
from headrace.training.splits import divide
from headrace.training.splits.port import Parts
from headrace.training.trainers.port import Fitted
from headrace.training.tuning import search

__all__ = ["TrainedVersion", "train"]


class TrainedVersion(Struct, frozen=True):
    """A version that is ready to be registered: its files, and what MLflow shows of it.

    Attributes:
        bundle: the folder of its files.
        report: the content of `training.json`.
        resumed: whether an earlier run trained it, from the same rows by the same code.
    """

    bundle: Path
    report: TrainingReport
    resumed: bool

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the test part by their names, those of the validation part as `validation_...`."""
        return {
            **self.report.metrics,
            **{f"validation_{name}": value for name, value in self.report.validation.metrics.items()},
            "test_rows": self.report.test.rows,
        }

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the fit."""
        return self.report.parameters

    @property
    def tags(self) -> dict[str, str]:
        """What the version was made from (TrainingReport.tags)."""
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
    """Trains a version of the model, and judges it by the gate.

    Starts Ray, unless the process is connected to the project's already.

    Args:
        project: the project that declares the model.
        lake: its lake.
        model: the declaration of the model.
        plan: the plan of its features.
        code: the fingerprint of the declaration. If given, a finished training of the same rows and code is
            reused, and judged by the present gate.
        champion: the verified bundle of the present champion, to be evaluated on the same test rows.
        inputs: table → the snapshot to read; the newest for tables that it does not name.
        progress: called after each trial.

    Raises:
        Refused: the labels are too few, or a part has only one class.
        ProjectError: the declaration does not fit the data.
        Unavailable: Ray does not start.
    """
    with _start_run(model) as current:
        rows = training_set.make(project, lake, model, plan, inputs=inputs)
        current.add_input(Dataset("table", rows.table, SnapshotPosition(rows.table, rows.snapshot)))
        commit = commit_of(project.settings)  # before the training: files may change while it runs
        work = make_private(project.settings.place("training", model.name))
        bundle = work / f"{rows.snapshot}-{code or current.id}"
        resumed = bool(code) and _can_resume(bundle, model)
        if resumed:
            report = read_report(bundle)
        else:
            for earlier in work.glob("*"):
                remove_path(earlier)
            report = _train(project, lake, model, plan, rows, bundle, champion, progress)
            report = msgspec.structs.replace(report, run=current.id, code=code, commit=commit)
        gate = _judge(model, report)
        if resumed and gate.rules != report.gate.rules:  # the champion may be another one than then
            rival = _evaluate_present_champion(project, lake, champion, plan, model, rows, report.task)
            report = _compared_with(rival, report)
            gate = _judge(model, report)
        report = msgspec.structs.replace(report, gate=gate)
        write_report(bundle, report)  # last: a bundle with a report is complete
        version = TrainedVersion(bundle, report, resumed)
        facts = {"metrics": version.metrics, "params": version.params}
        current.add_output(Dataset("model", f"{model.name}@{report.run}", facts=facts))
        current.add_facts(**facts, gate=msgspec.to_builtins(gate), revisions=rows.revisions)
    return version


def _judge(model: Model, report: TrainingReport) -> GateResult:
    return judge(
        model.gate,
        report.test.metrics,
        report.champion,
        problem=report.champion_problem,
        baseline=report.baseline or None,
    )


def _compared_with(rival: ChampionResult, report: TrainingReport) -> TrainingReport:
    return msgspec.structs.replace(report, champion=rival.metrics, champion_problem=rival.problem)


def _start_run(model: Model) -> AbstractContextManager[Run]:
    """The run of a training. Its id names the bundle, which has no version number before its registration."""
    run_id = new_id()
    reads = [Dataset("table", f"training_{model.name}")]
    writes = [Dataset("model", f"{model.name}@{run_id}")]
    return run(f"train {model.name}", reads=reads, writes=writes, id=run_id)


def _can_resume(bundle: Path, model: Model) -> bool:
    """Whether an earlier run finished this bundle for the same task."""
    return (bundle / REPORT).is_file() and task_of(model) in (None, read_report(bundle).task)


def _train(
    project: Project,
    lake: Lake,
    model: Model,
    plan: FeaturePlan,
    training_rows: TrainingSet,
    bundle: Path,
    champion: Path | None,
    progress: Progress | None,
) -> TrainingReport:
    """Fits and evaluates the model, and writes the bundle's files. The caller completes the report."""
    rows = training_set.read(lake, training_rows, plan, model.target)
    task = training_set.find_task(model, rows.frame[model.target])
    parts = _divide(model, plan, rows.frame, task)
    matrices = to_matrices(parts, model.target, plan, task)
    fits, trials = _search_and_fit(project, model, matrices, bundle.parent / "ray", progress)
    fitted = fits[-1]
    predictor = save(bundle / MODEL, fitted, model, matrices)
    rival = _evaluate_champion(project, lake, champion, plan, parts, model, training_rows, matrices)
    with run(f"evaluation {model.name}") as current:
        evaluator = evaluator_for(task)
        validation, test, classes = matrices.final.validation, matrices.test, matrices.classes
        evaluation = evaluator.evaluate(test.target, predictor.predict(test.matrix), classes)
        keys = [entity.join_key for entity in plan.entities]
        baseline = evaluate_baseline(model, rows.frame, parts.test, keys)
        folds = evaluate_folds(model, rows.frame, parts, matrices, fits, keys)
        current.add_facts(metrics=evaluation.metrics)
    (bundle / PLAN).write_bytes(msgspec.json.format(encode_plan(plan), indent=1))
    write_mlmodel(bundle, plan, classes)
    write_file(bundle / PLOTS, evaluator.plot(evaluation))
    return TrainingReport(
        model=model.name,
        task=task,
        training_set=training_rows,
        split=parts.description,
        parts={**{name: len(part) for name, part in parts}, "dropped": parts.dropped},
        boundaries={name: moment.isoformat() for name, moment in parts.boundaries.items()},
        parameters={**fitted.parameters, **fitted.chosen},
        trials=trials,
        validation=evaluator.evaluate(validation.target, fitted.validation, classes),
        test=evaluation,
        champion=rival.metrics,
        champion_problem=rival.problem,
        importance=dict(fitted.importance),
        incomplete=rows.incomplete,
        infinite=rows.infinite,
        baseline=baseline,
        folds=folds,
    )


def _divide(model: Model, plan: FeaturePlan, rows: pl.DataFrame, task: Task) -> Parts:
    if model.baseline is not None and task != "regression":
        raise ProjectError(
            f"model {model.name!r} declares a baseline, and its task is {task}",
            where=str(model.place),
            remedy="Remove it: a baseline predicts numbers.",
        )
    with run(f"split {model.name}") as current:
        keys = [entity.join_key for entity in plan.entities]
        parts = divide(rows, model.split, model.target, by_class=task != "regression", keys=keys)
        current.add_facts(
            params={"split": parts.description}, metrics={f"{name}_rows": len(part) for name, part in parts}
        )
    return parts


def _search_and_fit(
    project: Project, model: Model, matrices: Matrices, folder: Path, progress: Progress | None
) -> tuple[list[Fitted], list[Trial]]:
    """Searches, and fits each fold with the best parameters."""
    with connect(project.settings):
        try:
            trials = [] if model.tune is None else search(matrices, model, model.tune, folder, progress)
            seed = 0 if model.tune is None else model.tune.seed
            best = trials[0].parameters if trials else {}
            on_worker = not project.settings.cluster.is_local
            fits = fit_folds(matrices.folds, model, best, folder, seed=seed, on_worker=on_worker)
            return fits, trials
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _evaluate_present_champion(
    project: Project,
    lake: Lake,
    champion: Path | None,
    plan: FeaturePlan,
    model: Model,
    training_rows: TrainingSet,
    task: Task,
) -> ChampionResult:
    """The result of the champion on the test rows of a training that was finished before."""
    rows = training_set.read(lake, training_rows, plan, model.target)
    parts = _divide(model, plan, rows.frame, task)
    matrices = to_matrices(parts, model.target, plan, task)
    return _evaluate_champion(project, lake, champion, plan, parts, model, training_rows, matrices)


def _evaluate_champion(
    project: Project,
    lake: Lake,
    champion: Path | None,
    plan: FeaturePlan,
    parts: Parts,
    model: Model,
    training_rows: TrainingSet,
    matrices: Matrices,
) -> ChampionResult:
    if champion is None:
        return ChampionResult()
    champion_plan = decode_plan((champion / PLAN).read_bytes())
    read = training_set.table_reader(project, lake, training_rows.inputs)
    test = recompute_features(champion_plan, plan, parts.test, training_rows.inputs, read)
    return evaluate_champion(champion, test, model.target, matrices.task, matrices.classes)
