"""One training for real: lake, Ray Tune, Ray Train, gate, bundle, MLflow."""

from pathlib import Path

import msgspec
import pandas as pd
import pytest

from headrace import registry
from headrace.declare.model import Model
from headrace.declare.search import Tune, choice
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.kernel.run import recorder_added, run
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.training import job
from headrace.training.recorder import MlflowRecorder
from headrace.training.trainers import xgboost

TRIALS = 6


@pytest.fixture
def standing(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project.settings.root)
    monkeypatch.setenv("HOME", str(project.settings.root / "home"))
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)
    return project.settings.root


def test_a_training_from_the_lake_to_mlflow(
    project: Project, filled: Lake, model: Model, plan: FeaturePlan, standing: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    # With NaN there XGBoost's answers are NaN: no metric, never the best, and never in a report as a number.
    assert model.tune is not None
    space = {**model.tune.space, "scale_pos_weight": choice(float("nan"), 1.0)}
    tune = Tune("roc_auc", n_trials=TRIALS, space=model.tune.space)
    object.__setattr__(tune, "space", space)  # a space refuses NaN; other settings may lead to it all the same
    object.__setattr__(model, "tune", tune)
    opened = registry.open(project.settings)
    with recorder_added(MlflowRecorder(opened)), run("build"):
        trained = job.train(project, filled, model, plan, code="c1", progress=lambda *one: told.append(one))
        assert told[-1] == ("trials", TRIALS, TRIALS)
        report = trained.report
        assert report.gate.passed
        assert report.test.metrics["roc_auc"] > 0.8
        assert report.champion is None
        assert (len(report.trials), report.training_set.refused) == (TRIALS, 30)
        values = [one.value for one in report.trials]
        known = [value for value in values if value is not None]
        assert 0 < len(known) < TRIALS
        assert values == [*sorted(known, reverse=True), *[None] * (TRIALS - len(known))]
        assert report.parts["dropped"] > 0
        assert not list(standing.glob("home/ray_results")), "Ray leaves nothing at home"

        version = opened.register(
            model.name, trained.bundle, metrics=trained.metrics, params=trained.params, tags=trained.tags
        )
    opened.set_alias(model.name, "champion", version)
    bundle = opened.bundle(model.name, version)
    assert decode_plan((bundle / "plan.json").read_bytes()).digest == plan.digest
    predictor = xgboost.load(bundle / "model")
    assert predictor.features == ("facts__mood", "facts__kind")
    asked = Matrix(plan, predictor.meta.encoding).of_rows([[-2.0, "old"], [2.0, "old"]])
    low, high = predictor.predict(asked.matrix)
    assert low < 0.2 < 0.8 < high

    again = job.train(project, filled, model, plan, code="c1")
    assert again.resumed
    # As it is written: a parameter of NaN is null there.
    written = msgspec.json.decode(msgspec.json.encode(report), type=job.Report)
    assert again.report == written

    # Its own rival: the champion on the same rows has the same metrics, so the gate lets it pass.
    rows = job.training_set.read(filled, report.training_set, plan, model.target)
    test = job.by_time(rows.frame, model.split, model.target).test
    assert job.champion_metrics(bundle, test, model.target) == report.test.metrics

    _stock_mlflow(project, version)
    _nested_runs(opened, trained)


def _stock_mlflow(project: Project, version: int) -> None:
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


def _nested_runs(opened: registry.Registry, trained: job.TrainedVersion) -> None:
    runs = {one.info.run_name: one for one in opened.client.search_runs([opened.experiment])}
    parent = runs["train purchase"]
    assert parent.data.tags["mlflow.parentRunId"] == runs["build"].info.run_id
    assert parent.data.metrics["roc_auc"] == trained.metrics["roc_auc"]
    tuning = runs["tuning purchase"]
    for child in ("training set purchase", "tuning purchase", "fit purchase", "version of purchase"):
        assert runs[child].data.tags["mlflow.parentRunId"] == parent.info.run_id
    trials = [one for name, one in runs.items() if name.startswith("trial ")]
    assert len(trials) == TRIALS
    assert {one.data.tags["mlflow.parentRunId"] for one in trials} == {tuning.info.run_id}
    known = [one.data.metrics["roc_auc"] for one in trials if "roc_auc" in one.data.metrics]
    assert max(known) == trained.report.trials[0].value
    assert {one.info.status for one in runs.values()} == {"FINISHED"}
    assert msgspec.json.decode((trained.bundle / "training.json").read_bytes())["model"] == "purchase"
