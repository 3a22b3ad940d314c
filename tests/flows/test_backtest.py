"""backtest: logged requests answered by the same version, another one, and one with features of a new view."""

from __future__ import annotations

import json
from contextlib import closing
from contextvars import copy_context
from datetime import timedelta
from itertools import product

import msgspec
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression
from tests.flows.logged_project import (
    PRODUCTS,
    ingest,
    make_logged_project,
    mean_prices,
    put_outcomes,
    put_report,
    put_version,
)
from tests.serving.running import run_endpoint, ship_predictions
from tests.serving.small_project import (
    DAY,
    fit_booster,
    make_project,
    plan_of,
    put_features,
    put_release,
    put_trained,
)

import headrace
from headrace.cli.main import main
from headrace.declare.trainers import Sklearn
from headrace.flows.models.backtest import _slice_of, backtest
from headrace.kernel.errors import CallError
from headrace.kernel.time import micros
from headrace.serving.as_of.predictor import AsOfPredictor
from headrace.serving.as_of.query import AsOf
from headrace.serving.as_of.replay import LoggedRequests
from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.predictor import SingleRequest, SpoolingPredictor
from headrace.serving.release import Arm
from headrace.training.trainers.folder import load_model
from headrace.workspace import Workspace


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_logged_project(tmp_path_factory.mktemp("backtest") / "p")


def test_the_same_version_answers_equally_to_the_last_bit(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 1)
    (part,) = report.slices
    assert (part.requests, part.equal, part.decisions_changed) == (28, 28, 0)
    assert (part.mean_difference, part.greatest_difference, report.left_out) == (0, 0, {})
    assert sorted(report.rows["id"]) == sorted(prediction.id for prediction in predictions)


def test_requests_that_shared_a_lookup_are_answered_again_each_alone(tmp_path):
    """Scikit-learn adds a product of matrices up in another order for another number of rows."""
    settings = make_project(tmp_path / "p")
    bundle = put_trained(settings, Sklearn(LogisticRegression()))
    put_report(settings, bundle, plan_of())
    random = np.random.default_rng(5)
    put_features(settings, plan_of(), {n: (random.normal() * 10, int(random.normal() * 99)) for n in range(64)})
    put_release(settings, Arm(1))
    instances = [{"user_id": 1, "product_id": n, "price": 1.0} for n in range(64)]
    models, predictor = Models(settings), SpoolingPredictor(settings.place("serving", "spool"), Metrics())
    with closing(models), closing(predictor):
        requests = [SingleRequest(instance, None, copy_context()) for instance in instances]
        single = predictor.predict_together(models.released["purchase"], requests)
        several = predictor.predict(models.released["purchase"], instances)
    assert len({prediction.at for prediction in single}) == 1
    assert [p.value for p in single] != [p.value for p in several]
    put_outcomes(settings, ship_predictions(settings), [True])
    ingest(settings, "results")
    with Workspace(settings) as workspace:
        (part,) = backtest(workspace, "purchase", 1).slices
    assert (part.requests, part.equal) == (128, 128)
    predictor = AsOfPredictor(settings)
    with closing(predictor):
        for prediction in single[:20]:
            body = msgspec.json.encode(prediction.entity | prediction.request)
            answer = msgspec.json.decode(predictor.answer("purchase", AsOf(prediction.at), body))
            assert (answer["logged"], answer["value"]) == (prediction.id, prediction.value)


def test_another_version_answers_by_the_served_features(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 2, by="user_id")
        model = load_model(workspace.registry.bundle("purchase", 2) / "model")
    matrix = [
        [np.nan if value is None else value for value in prediction.features.values()]
        for prediction in predictions
    ]
    expected = dict(zip([p.id for p in predictions], model.predict(np.array(matrix, np.float32)), strict=True))
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    changed = sum((expected[p.id] >= 0.5) != (p.value >= 0.5) for p in predictions)
    assert report.slices[0].decisions_changed == changed > 10
    users = {str(user): sum(p.entity["user_id"] == user for p in predictions) for user in range(4)}
    assert {part.name: part.requests for part in report.slices[1:]} == users
    assert sum(part.decisions_changed for part in report.slices[1:]) == changed


def test_a_new_view_is_joined_as_it_was_known_at_each_moment(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 3)
        model = load_model(workspace.registry.bundle("purchase", 3) / "model")
        events = workspace.lake.table("clicks").scan().filter("_valid").collect()
    known = [
        (micros(row["at"]), micros(row["_known_at"]), row["user_id"]) for row in events.iter_rows(named=True)
    ]
    assert len(known) == 66
    expected, counts = {}, set()
    for prediction in predictions:
        at = micros(prediction.at)
        begin = (at - DAY) // (DAY // 24) * (DAY // 24)
        user = prediction.entity["user_id"]
        count = sum(begin <= t < at and seen < at and key == user for t, seen, key in known)
        counts.add(count)
        views = prediction.features["facts__views"]
        row = np.array([[np.nan if views is None else views, count]], np.float32)
        expected[prediction.id] = float(model.predict(row)[0])
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    assert report.left_out == {}
    assert counts == {0, 19, 20}


def test_an_on_demand_view_is_computed_from_what_was_known_at_each_moment(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 5)
        model = load_model(workspace.registry.bundle("purchase", 5) / "model")
    expected, gaps = {}, 0
    for prediction in predictions:
        key, price = prediction.entity["product_id"], prediction.request["price"]
        since = prediction.at - timedelta(days=7)
        known = [
            (at, mean)
            for number, at, mean in mean_prices(predictions)
            if number == key and since <= at <= prediction.at
        ]
        gaps += not known
        if price != 1:
            row = [True, max(known)[1] * 9 + 1 / (price - 1)] if known else [False, np.nan]
            expected[prediction.id] = float(model.predict(np.array([row], np.float32))[0])
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    assert report.left_out == {"on-demand view 'gap' fails": 1}
    assert (len(expected), gaps, len({*expected.values()})) == (27, 8, 2)


def test_both_versions_are_measured_by_what_happened(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 2)
    (part,) = report.slices
    replayed = {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)}
    happened = {prediction.id: number % 3 > 0 for number, prediction in enumerate(predictions[:20])}
    assert {row["id"]: row["outcome"] for row in report.rows.iter_rows(named=True)} == {
        prediction.id: happened.get(prediction.id) for prediction in predictions
    }
    assert part.known == 20
    logged = {prediction.id: prediction.value for prediction in predictions}
    for answers, metrics in ((logged, part.logged), (replayed, part.replayed)):
        right = [(answers[id_] >= 0.5) == was for id_, was in happened.items()]
        assert metrics["accuracy"] == pytest.approx(sum(right) / 20)
        pairs = [
            (answers[yes] > answers[no]) + (answers[yes] == answers[no]) / 2
            for yes, no in product(happened, happened)
            if happened[yes] and not happened[no]
        ]
        assert metrics["roc_auc"] == pytest.approx(sum(pairs) / len(pairs))
    assert part.logged["accuracy"] != part.replayed["accuracy"]


def fit_classes(first):
    """Trees that predict one of three classes from the views; `first` is the class of the fewest."""
    views = np.arange(200, dtype=np.float32)
    labels = (views * 3 // 200 + first) % 3
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    matrix = np.column_stack([np.zeros(200, np.float32), views])
    return bytes(xgboost.train(parameters, xgboost.DMatrix(matrix, labels), 5).save_raw("ubj"))


def test_labels_of_several_classes_are_compared(tmp_path):
    settings = make_project(tmp_path / "p")
    classes = ("ash", "oak", "yew")
    boosters = {1: fit_classes(0), -1: fit_classes(1)}
    for version, slope in ((1, 1), (2, -1)):
        put_version(settings, boosters, version, plan_of(), slope, classes)
    put_version(settings, {1: fit_booster(1)}, 3, plan_of(), 1)
    put_features(settings, plan_of(), PRODUCTS)
    put_release(settings, Arm(1))
    with run_endpoint(settings) as client:
        several = [{"user_id": 1, "product_id": number, "price": 1.0} for number in range(20)]
        assert client.post("/predict/purchase", json={"instances": several}).status_code == 200
    predictions = ship_predictions(settings)
    happened = [classes[number % 3] for number in range(20)]
    put_outcomes(settings, predictions, happened)
    ingest(settings, "results")
    with Workspace(settings) as workspace:
        same, other = backtest(workspace, "purchase", 1), backtest(workspace, "purchase", 2)
        model = load_model(workspace.registry.bundle("purchase", 2) / "model")
        with pytest.raises(CallError, match="has the task multiclass, not binary"):
            backtest(workspace, "purchase", 3)
    assert (same.slices[0].equal, same.slices[0].decisions_changed) == (20, 0)
    rows = [[*prediction.features.values()] for prediction in predictions]
    probabilities = model.predict(np.array(rows, np.float32))
    labels = [classes[code] for code in probabilities.argmax(axis=1)]
    expected = {p.id: (p.value, label) for p, label in zip(predictions, labels, strict=True)}
    assert {row["id"]: (row["logged"], row["replayed"]) for row in other.rows.iter_rows(named=True)} == expected
    (part,) = other.slices
    assert part.decisions_changed == sum(old != new for old, new in expected.values()) > 10
    assert (part.mean_difference, part.greatest_difference, part.known) == (None, None, 20)
    logged = [[p.probabilities[name] for name in classes] for p in predictions]
    for answers, metrics in ((np.array(logged), part.logged), (probabilities, part.replayed)):
        truth = [classes.index(label) for label in happened]
        assert metrics["accuracy"] == pytest.approx(np.mean(answers.argmax(axis=1) == truth))
        assert metrics["log_loss"] == pytest.approx(-np.mean(np.log(answers[range(20), truth])))
    assert part.logged["log_loss"] != pytest.approx(part.replayed["log_loss"])


def test_what_a_version_would_refuse_is_left_out_and_counted(small):
    settings, _ = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 4)
    assert report.left_out == {"missing features": 2}
    assert (report.slices[0].requests, report.slices[0].equal) == (26, 26)


def test_an_answer_that_is_no_number_is_left_out_and_counted(small, monkeypatch):
    settings, _ = small

    def load_broken(folder):
        model = load_model(folder)
        predict = model.predict
        monkeypatch.setattr(
            model, "predict", lambda matrix: np.where(matrix[:, 1] > 90, np.inf, predict(matrix))
        )
        return model

    monkeypatch.setattr("headrace.flows.models.backtest.load_model", load_broken)
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 2)
    assert report.left_out == {"the model's answer is not a finite number": 9}
    assert report.slices[0].requests == len(report.rows) == 19
    assert report.rows["replayed"].is_finite().all()


def test_a_wrong_question_is_answered_with_what_exists(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        with pytest.raises(CallError, match="no prediction of model 'purchase' from this time"):
            backtest(workspace, "purchase", 1, since=predictions[-1].at + timedelta(days=1))
        with pytest.raises(CallError, match="no request has the field 'colour'") as caught:
            backtest(workspace, "purchase", 1, by="colour")
        assert "product_id" in str(caught.value)
        for threshold in (float("nan"), -0.1, 1.5):
            with pytest.raises(CallError, match="is not a probability from 0 to 1"):
                backtest(workspace, "purchase", 1, threshold=threshold)
        newest = backtest(workspace, "purchase", 1, limit=3)
        assert newest.slices[0].requests == 3
        assert newest.rows["at"].min() >= pl.Series(sorted(p.at for p in predictions))[-3]


def test_the_threshold_is_the_declared_one_unless_another_is_given(small):
    settings, predictions = small
    happened = {prediction.id: number % 3 > 0 for number, prediction in enumerate(predictions[:20])}
    models = settings.root / "small" / "models.py"
    text = models.read_text()
    opened = headrace.project(settings.root)
    try:
        models.write_text(text.replace("outcomes=happened", "outcomes=happened, threshold=0.75"))
        declared, given = opened.backtest("purchase", 2), opened.backtest("purchase", 2, threshold=0.1)
        rows = {threshold: report.rows for threshold, report in ((0.75, declared), (0.1, given))}
    finally:
        models.write_text(text)
    assert (declared.threshold, given.threshold) == (0.75, 0.1)
    changed = set()
    for report in (declared, given):
        (part,), limit = report.slices, report.threshold
        pairs = list(rows[limit].select("id", "logged", "replayed").iter_rows())
        assert part.decisions_changed == sum((old >= limit) != (new >= limit) for _, old, new in pairs)
        right = [(new >= limit) == happened[id_] for id_, _, new in pairs if id_ in happened]
        assert part.replayed["accuracy"] == pytest.approx(sum(right) / 20)
        changed.add((part.decisions_changed, part.replayed["accuracy"]))
    assert len(changed) == 2


def test_a_report_shows_itself_in_a_notebook(small):
    report = headrace.project(small[0].root).backtest("purchase", 4, by="user_id")
    html = report._repr_html_()
    assert "<p>purchase@4: requests from " in html
    assert "<p>left out: 2, missing features</p>" in html
    assert report.table["slice"].to_list() == [part.name for part in report.slices]
    for name in ("requests", "equal", "known"):
        assert report.table[name].to_list() == [getattr(part, name) for part in report.slices]
    assert report.table["roc_auc, replayed"][0] == report.slices[0].replayed["roc_auc"]
    assert html.count("<tr>") > len(report.slices)


def test_the_fields_of_the_newest_request_are_named():
    rows = pl.DataFrame({"arm": ["champion"] * 2, "version": [1, 1]})
    logged = LoggedRequests(rows, [{"old": 1}, {"new": 2}], [{"facts__old": 1}, {"facts__new": 2}])
    with pytest.raises(CallError) as caught:
        _slice_of(logged, "colour")
    assert caught.value.remedy == "The newest has arm, facts__new, new, version."


def test_a_field_without_a_value_is_one_slice():
    rows = pl.DataFrame({"arm": ["champion"] * 2, "version": [1, 1]})
    logged = LoggedRequests(rows, [{}, {}], [{"facts__views": None}, {"facts__views": None}])
    assert _slice_of(logged, "facts__views").to_list() == ["(none)", "(none)"]


def test_whole_numbers_are_named_as_such():
    rows = pl.DataFrame({"arm": ["champion"] * 3, "version": [1] * 3})
    logged = LoggedRequests(
        rows, [{}, {}, {}], [{"facts__views": 0.0}, {"facts__views": 1.0}, {"facts__views": 0.5}]
    )
    assert _slice_of(logged, "facts__views").to_list() == ["0", "1", "0.5"]


@pytest.fixture
def run(small, capsys):
    """Runs the verb, and returns its exit code and its output."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["backtest", *arguments, "--project", str(small[0].root)])
        return end.value.code, "".join(capsys.readouterr())

    return call


def test_the_command_prints_the_slices_and_writes_the_answers(small, run, tmp_path):
    file = tmp_path / "new" / "answers.parquet"
    code, output = run("purchase@2", "--by", "user_id", "--output", str(file))
    with Workspace(small[0]) as workspace:
        report = backtest(workspace, "purchase", 2, by="user_id")
    assert code == 0
    for part in report.slices:
        metrics = [f"{part.logged[name]:.4f} → {part.replayed[name]:.4f}" for name in ("accuracy", "roc_auc")]
        cells = [part.name, part.requests, part.equal, part.decisions_changed]
        assert any(line.split()[:4] == [*map(str, cells)] for line in output.splitlines())
        assert all(metric in output for metric in metrics)
    assert pl.read_parquet(file).equals(report.rows)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    code, output = run("purchase@2", "--json")
    assert (code, json.loads(output)["slices"][0]["requests"]) == (0, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["purchase"], "'purchase' is not a version of a model"),
        (["purchase@9"], "model 'purchase' has no version 9"),
        (["nope@1"], "'nope'"),
        (["purchase@1", "--since", "2026-03-08", "--until", "2026-03-01"], "there is no time from 2026-03-08"),
        (["purchase@1", "--since", "99999999d"], "'99999999d' is not a moment"),
        (["purchase@1", "--threshold", "nan"], "the threshold nan is not a probability"),
        (["purchase@1", "--limit", "0"], "0 is not in the range"),
        (["purchase@1", "--by", "colour"], "no request has the field 'colour'"),
        (["purchase@1", "--output", "/"], "/ is not a plain file"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(run, arguments, message):
    code, output = run(*arguments)
    assert (code, message in output) == (2, True), output
