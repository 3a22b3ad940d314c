"""A whole training: lake, Ray Tune, Ray Train, gate, bundle, MLflow."""

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from tests.training.conftest import START, write_facts, write_outcomes

from headrace import registry
from headrace.declare.baselines import SeasonalNaive
from headrace.declare.gate import at_least, at_most, better_than_baseline, not_worse_than_champion
from headrace.declare.model import Model
from headrace.declare.search import Tune, choice
from headrace.declare.splits import WalkForward
from headrace.declare.trainers import MLP, Sklearn, Torch, XGBoost
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.kernel.errors import ProjectError
from headrace.kernel.run import record_with, run
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.training import job, training_set
from headrace.training.champion import evaluate_champion
from headrace.training.recorder import MlflowRecorder
from headrace.training.report import TrainingReport
from headrace.training.splits import divide
from headrace.training.trainers.folder import load_model

TRIALS = 6


@pytest.fixture
def root(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, which is the working directory; HOME lies in it."""
    monkeypatch.chdir(project.settings.root)
    monkeypatch.setenv("HOME", str(project.settings.root / "home"))
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)
    return project.settings.root


def test_a_training_goes_from_the_lake_to_mlflow(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, root: Path
) -> None:
    progress: list[tuple[str, int, int]] = []
    # With NaN there XGBoost's answers are NaN: no metric, never the best, and never in a report as a number.
    assert model.tune is not None
    space = {**model.tune.space, "scale_pos_weight": choice(float("nan"), 1.0)}
    tune = Tune("roc_auc", n_trials=TRIALS, space=model.tune.space)
    object.__setattr__(tune, "space", space)  # a space refuses NaN; other settings may lead to it all the same
    model = attrs.evolve(model, tune=tune)
    versions = registry.open(project.settings)
    with record_with(MlflowRecorder(versions)), run("build"):
        trained = job.train(
            project, full_lake, model, plan, code="c1", progress=lambda *step: progress.append(step)
        )
        assert progress[-1] == ("trials", TRIALS, TRIALS)
        report = trained.report
        assert report.gate.passed
        assert report.test.metrics["roc_auc"] > 0.8
        assert report.champion is None
        assert report.task == "binary"
        assert (len(report.trials), report.training_set.refused) == (TRIALS, 30)
        values = [trial.value for trial in report.trials]
        known = [value for value in values if value is not None]
        assert 0 < len(known) < TRIALS
        assert values == [*sorted(known, reverse=True), *[None] * (TRIALS - len(known))]
        assert report.parts["dropped"] > 0
        assert 0 < report.parameters["num_boost_round"] <= 60
        assert not list(root.glob("home/ray_results")), "Ray leaves nothing at home"

        version = versions.register(
            model.name, trained.bundle, metrics=trained.metrics, params=trained.params, tags=trained.tags
        )
    versions.set_alias(model.name, "champion", version)
    bundle = versions.bundle(model.name, version)
    assert decode_plan((bundle / "plan.json").read_bytes()).digest == plan.digest
    predictor = load_model(bundle / "model")
    assert predictor.features == ("facts__mood", "facts__kind")
    rows = Matrix(plan, predictor.meta.encoding).of_rows([[-2.0, "old"], [2.0, "old"]])
    low, high = predictor.predict(rows.matrix)
    assert low < 0.2 < 0.8 < high

    again = job.train(project, full_lake, model, plan, code="c1")
    assert again.resumed
    # As it is written: a parameter of NaN is null there.
    written = msgspec.json.decode(msgspec.json.encode(report), type=TrainingReport)
    assert again.report == written

    # Another gate judges the finished training anew.
    strict = attrs.evolve(model, gate=[at_least("roc_auc", 0.999)])
    judged = job.train(project, full_lake, strict, plan, code="c1")
    assert (judged.resumed, judged.report.gate.passed) == (True, False)
    assert judged.tags["headrace.gate"] == "refused"
    assert judged.report.run == report.run

    # It is compared with the present champion, not with that of its fit, which had none.
    rivalled = attrs.evolve(model, gate=[not_worse_than_champion("roc_auc")])
    judged = job.train(project, full_lake, rivalled, plan, code="c1", champion=bundle)
    assert (judged.resumed, judged.report.gate.passed, judged.report.gate.notes) == (True, True, ())
    assert judged.report.champion == report.test.metrics

    # Its own rival: the champion on the same rows has the same metrics, so the gate lets it pass.
    labelled = training_set.read(full_lake, report.training_set, plan, model.target)
    test = divide(labelled.frame, model.split, model.target).test
    assert evaluate_champion(bundle, test, model.target, "binary").metrics == report.test.metrics
    assert evaluate_champion(bundle, test, model.target, "regression").problem == (
        "the champion predicts a binary target"
    )

    check_stock_mlflow(project)
    check_nested_runs(versions, trained)


def check_stock_mlflow(project: Project) -> None:
    import mlflow

    mlflow.set_tracking_uri(project.settings.registry.mlflow_url)
    loaded = mlflow.pyfunc.load_model("models:/purchase@champion")
    scores = loaded.predict(pd.DataFrame({"facts__mood": [-2.0, 2.0], "facts__kind": ["old", "unseen"]}))
    assert scores[0] < 0.2 < 0.8 < scores[1]
    # The product's own rows, with what may be missing in them: null, a column that is left out, whole numbers.
    nulls = loaded.predict(pd.DataFrame({"facts__mood": [None, 2.0], "facts__kind": [None, "old"]}))
    without = loaded.predict(pd.DataFrame({"facts__mood": [float("nan"), 2.0]}))
    whole = loaded.predict(pd.DataFrame({"facts__mood": [-2, 2], "facts__kind": ["old", "unseen"]}))
    nullable = loaded.predict(pd.DataFrame({"facts__mood": pd.array([None, 2], "Int64")}))
    assert nulls[0] == without[0] == nullable[0]
    assert without[1] == nullable[1]
    assert list(whole) == list(scores)


def test_the_runs_of_a_build_are_closed_at_every_moment(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, root: Path
) -> None:
    versions = registry.open(project.settings)
    model = attrs.evolve(model, tune=None)

    def runs() -> dict[str, Any]:
        return {run.info.run_name: run for run in versions.client.search_runs([versions.experiment])}

    def build_and_fail() -> None:
        with record_with(MlflowRecorder(versions)), run("build"):
            with run("stage table-outcomes") as stage:
                stage.add_facts(what="2 days", rows=3000)
            with run("stage training_set-purchase"):
                training_set.make(project, full_lake, model, plan)
            with run("stage train-purchase"):
                job.train(project, full_lake, model, plan)
            written = runs()
            assert written["build"].info.status == "KILLED"  # what stays if the process is killed now
            assert {written[name].info.status for name in written if name != "build"} == {"FINISHED"}
            assert written["split purchase"].data.params["split"] == "by time with a gap of 30m"
            assert written["split purchase"].data.metrics["test_rows"] > 0
            assert "roc_auc" in written["evaluation purchase"].data.metrics
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_and_fail()
    written = runs()
    build = written["build"].info
    assert build.status == "FAILED"
    table = written["stage table-outcomes"]
    assert table.data.tags["mlflow.parentRunId"] == build.run_id
    assert table.data.tags["mlflow.note.content"] == "2 days"
    assert table.data.metrics == {"rows": 3000}
    assert set(written) == {
        "build",
        "stage table-outcomes",
        "train purchase",
        *(f"{step} purchase" for step in ("training set", "split", "fit", "evaluation")),
    }
    assert versions.client.search_runs([versions.experiment], "attributes.status = 'RUNNING'") == []


def test_a_failed_training_is_closed_as_failed(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, root: Path
) -> None:
    versions = registry.open(project.settings)
    model = attrs.evolve(model, tune=None, trainer=XGBoost(max_dept=3))
    with record_with(MlflowRecorder(versions)), pytest.raises(ProjectError, match="'max_dept'"):
        job.train(project, full_lake, model, plan)
    written = {run.info.run_name: run for run in versions.client.search_runs([versions.experiment])}
    outcomes = {name: run.info.status for name, run in written.items()}
    assert outcomes == {
        "train purchase": "FAILED",
        "training set purchase": "FINISHED",
        "split purchase": "FINISHED",
        "fit purchase": "FAILED",
    }
    inner = {
        run.data.tags.get("mlflow.parentRunId") for name, run in written.items() if name != "train purchase"
    }
    assert inner == {written["train purchase"].info.run_id}


def test_a_search_over_an_unknown_parameter_names_it(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, root: Path
) -> None:
    tune = Tune("roc_auc", n_trials=2, space={"max_dept": choice(2, 3)})
    with pytest.raises(ProjectError, match="does not use the parameter 'max_dept'"):
        job.train(project, full_lake, attrs.evolve(model, tune=tune), plan)


def check_nested_runs(versions: registry.Registry, trained: job.TrainedVersion) -> None:
    runs = {run.info.run_name: run for run in versions.client.search_runs([versions.experiment])}
    parent = runs["train purchase"]
    assert parent.data.tags["mlflow.parentRunId"] == runs["build"].info.run_id
    assert parent.data.metrics["roc_auc"] == trained.metrics["roc_auc"]
    tuning = runs["tuning purchase"]
    for child in ("training set purchase", "tuning purchase", "fit purchase", "version of purchase"):
        assert runs[child].data.tags["mlflow.parentRunId"] == parent.info.run_id
    trials = [trial for name, trial in runs.items() if name.startswith("trial ")]
    assert len(trials) == TRIALS
    assert {trial.data.tags["mlflow.parentRunId"] for trial in trials} == {tuning.info.run_id}
    known = [trial.data.metrics["roc_auc"] for trial in trials if "roc_auc" in trial.data.metrics]
    assert max(known) == trained.report.trials[0].value


def write_weekly(home: Lake) -> None:
    """Sales of 20 stores in 40 weeks, which follow the store and a season of four weeks."""
    rng = np.random.default_rng(5)
    rows = [
        (store, START + timedelta(weeks=week), 100 * (1 + store % 5) + 30 * (week % 4) + rng.normal())
        for store in range(20)
        for week in range(40)
    ]
    schema = {"user_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC"), "sales": pl.Float64}
    labels = pl.DataFrame(rows, schema=schema, orient="row").to_arrow()
    home.ensure("weekly", labels.schema).overwrite(labels)


def test_a_walk_forward_training_reports_its_folds_and_the_baseline(
    project: Project, empty_lake: Lake, model: Model, plan: FeaturePlan, root: Path
) -> None:
    write_facts(empty_lake)
    write_weekly(empty_lake)
    weekly = attrs.evolve(
        model,
        labels=attrs.evolve(model.labels, name="weekly"),
        target="sales",
        task="regression",
        tune=None,
        gate=[better_than_baseline("wape", 0.2)],
        split=WalkForward(3, horizon="28d"),
        baseline=SeasonalNaive("28d"),
    )
    report = job.train(project, empty_lake, weekly, plan).report
    assert report.split == "walk-forward in 3 folds of 28d"
    assert [fold.rows["train"] for fold in report.folds] == [24 * 20, 28 * 20, 32 * 20]
    assert report.folds[-1].metrics == report.test.metrics
    assert report.folds[-1].baseline == report.baseline
    assert report.baseline["mae"] == pytest.approx(2 / math.sqrt(math.pi), rel=0.3)  # the noise of two weeks
    for name in ("mae", "rmse", "wape", "r2"):
        assert report.metrics[f"baseline_{name}"] == report.baseline[name]
    (result,) = report.gate.results
    assert (result.rule, result.passed) == ("wape at least 20% better than the baseline's", False)
    assert result.bound == pytest.approx(0.8 * report.baseline["wape"])


@pytest.mark.parametrize(
    ("task", "target", "rule"),
    [
        ("regression", pl.col("event_timestamp").dt.minute() + pl.col("user_id") % 7, at_most("rmse", 100)),
        (
            "multiclass",
            pl.concat_str(pl.lit("class "), (pl.col("user_id") % 3).cast(pl.String)),
            at_least("accuracy", 0.0),
        ),
    ],
)
def test_a_model_of_another_task_is_trained_and_judged_by_its_metrics(
    project: Project,
    empty_lake: Lake,
    model: Model,
    plan: FeaturePlan,
    root: Path,
    task: str,
    target: pl.Expr,
    rule: object,
) -> None:
    write_facts(empty_lake)
    write_outcomes(empty_lake)
    outcomes = empty_lake.table("outcomes").scan().collect()
    rows = outcomes.with_columns(bought=target).to_arrow()
    empty_lake.ensure("targets", rows.schema).overwrite(rows)
    labels = attrs.evolve(model.labels, name="targets")
    other = attrs.evolve(model, labels=labels, tune=None, gate=[rule], task=task)
    trained = job.train(project, empty_lake, other, plan)
    assert trained.report.gate.passed
    assert trained.report.test.metrics[rule.metric] == trained.report.gate.results[0].value
    predictor = load_model(trained.bundle / "model")
    assert predictor.meta.task == task
    assert predictor.meta.classes == (("class 0", "class 1", "class 2") if task == "multiclass" else ())
    assert "<svg" in (trained.bundle / "evaluation.svg").read_text()


TRAINERS = {
    "xgboost": XGBoost(20, 5),
    "estimator": Sklearn(LogisticRegression()),
    "pipeline": Sklearn(
        make_pipeline(
            make_column_transformer(
                (SimpleImputer(), ["facts__mood"]),
                (OneHotEncoder(handle_unknown="ignore"), ["facts__kind"]),
            ),
            LogisticRegression(),
        )
    ),
    "torch": Torch(MLP((8,)), epochs=3),
}


@pytest.mark.parametrize("name", list(TRAINERS))
def test_training_serving_and_mlflow_give_a_row_of_text_the_same_output(
    project: Project, full_lake: Lake, model: Model, plan: FeaturePlan, root: Path, name: str
) -> None:
    if name == "torch":
        pytest.importorskip("torch", reason="the extra torch is not installed: make torch")
    import mlflow

    facts = full_lake.table("facts")
    mood, kind = pl.col("mood"), pl.col("kind")
    unknown = pl.col("user_id") % 9 == 0
    facts.overwrite(
        facts.scan()
        .with_columns(mood=pl.when(~unknown).then(mood), kind=pl.when(pl.col("user_id") % 7 > 0).then(kind))
        .collect()
        .to_arrow()
    )
    bundle = job.train(project, full_lake, attrs.evolve(model, tune=None, trainer=TRAINERS[name]), plan).bundle
    predictor = load_model(bundle / "model")
    values = [[0.5, "new"], [0.5, "old"], [None, "old"], [-1.0, None], [-1.0, "never seen"], [None, None]]
    frame = pl.DataFrame(values, schema=["facts__mood", "facts__kind"], orient="row")
    matrix = Matrix(plan, predictor.meta.encoding)
    trained = predictor.predict(matrix.of_frame(frame).matrix)
    served = np.concatenate([predictor.predict(matrix.of_rows([row]).matrix) for row in values])
    np.testing.assert_allclose(served, trained, rtol=1e-12)
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(str(bundle)).predict(frame.to_pandas()), trained)
    assert np.isfinite(trained).all()
    assert trained[3] == trained[4]  # text that the train part lacks is missing text
    assert trained[0] != trained[1]
