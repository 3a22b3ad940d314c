"""Answers for past moments: of logged requests to the last bit, of others by what the tables say was known."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import jsonschema
import msgspec
import numpy as np
import polars as pl
import pytest
from tests.events.customers import NOON, change
from tests.flows import logged_project
from tests.flows.logged_project import make_logged_project, mean_prices, plan_with_clicks, put_events
from tests.serving.running import run_endpoint
from tests.serving.small_project import DAY, make_project, put_release
from tests.tables.changes_shop import Shop
from tests.until import until

from headrace import lake as lakes
from headrace.config.settings import load_settings
from headrace.features.offline.point_in_time import join
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField
from headrace.kernel.errors import Unavailable
from headrace.kernel.properties import CODE, HISTORY
from headrace.kernel.time import from_micros, micros, now
from headrace.lake.visible import VisibleRecord, keep_snapshots, write_record
from headrace.serving.as_of.history import History
from headrace.serving.as_of.predictor import AsOfPredictor
from headrace.serving.as_of.query import AsOf
from headrace.serving.errors import NoHistory
from headrace.serving.release import Arm, history
from headrace.training.trainers.folder import load_model
from headrace.workspace import Workspace


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A project with logged predictions, an endpoint that answers for its past, and what the spool then has."""
    settings, predictions = make_logged_project(tmp_path_factory.mktemp("as_of") / "p")
    with run_endpoint(settings) as client:
        yield settings, predictions, client


@pytest.fixture
def ask(logged):
    _, _, client = logged

    def post(moment, body, **query):
        query = {"as_of": moment if isinstance(moment, str) else moment.isoformat(), **query}
        return client.post("/predict/purchase", params=query, json=body, timeout=60)

    return post


@pytest.mark.parametrize("column", ["views", "product_id"])
def test_a_table_that_lost_a_column_of_the_version_has_no_history_for_it(tmp_path, monkeypatch, column):
    """It was made by other code meanwhile. What is in the log is answered as ever."""
    monkeypatch.setattr(logged_project, "put_facts", lambda settings, predictions: put_less(settings, column))
    settings, predictions = make_logged_project(tmp_path / "p")
    moment, (first, *_) = predictions[-1].at + timedelta(microseconds=1), predictions
    predictor = AsOfPredictor(settings)
    try:
        body = msgspec.json.encode(first.entity | first.request)
        answer = msgspec.json.decode(predictor.answer("purchase", AsOf(first.at), body))
        assert (answer["logged"], answer["value"]) == (first.id, first.value)
        with pytest.raises(NoHistory, match=f"'{column}', a column that table facts lacks") as error:
            predictor.answer("purchase", AsOf(moment, 1), body)
        assert error.value.field == "version"
    finally:
        predictor.close()


def put_less(settings, column):
    rows = pl.DataFrame(
        {"product_id": [7], "event_timestamp": [from_micros(1)], "mean_price": [1.5], "views": [3]}
    )
    table = rows.drop(column).to_arrow()
    lakes.open(settings).ensure("facts", table.schema).append(table)


def load(settings, version):
    with Workspace(settings) as workspace:
        return load_model(workspace.registry.bundle("purchase", version) / "model")


def predict(model, *values):
    row = [np.nan if value is None else value for value in values]
    return float(model.predict(np.array([row], np.float32))[0])


def test_a_logged_request_has_the_logged_answer(logged, ask):
    settings, predictions, _ = logged
    spooled = sum(path.stat().st_size for path in settings.place("serving", "spool").glob("*.spool"))
    for prediction in predictions:
        answer = ask(prediction.at, prediction.entity | prediction.request).json()
        assert answer == {
            "model": "purchase",
            "version": 1,
            "arm": "champion",
            "as_of": prediction.at.isoformat().replace("+00:00", "Z"),
            "logged": prediction.id,
            "value": prediction.value,
            "probabilities": None,
            "missing": prediction.missing,
            "features": prediction.features,
        }
    assert spooled == sum(path.stat().st_size for path in settings.place("serving", "spool").glob("*.spool"))


def test_the_instances_of_a_logged_request_have_the_logged_answers(logged, ask):
    _, predictions, _ = logged
    several = [prediction for prediction in predictions if prediction.request["price"] == 1.25]
    assert len({prediction.at for prediction in several}) == 1
    body = {"instances": [prediction.entity | prediction.request for prediction in reversed(several)]}
    answers = ask(several[0].at, body).json()["predictions"]
    assert [(answer["logged"], answer["value"]) for answer in answers] == [
        (prediction.id, prediction.value) for prediction in reversed(several)
    ]


def test_the_openapi_document_describes_the_answer(logged, ask):
    _, predictions, client = logged
    operation = client.get("/openapi.json").json()["paths"]["/predict/purchase"]["post"]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["as_of"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    instance = predictions[0].entity | predictions[0].request
    for body in (instance, {"instances": [instance]}):
        jsonschema.validate(ask(predictions[0].at, body).json(), schema)


def test_another_version_answers_a_logged_request_by_what_was_known(logged, ask):
    settings, predictions, _ = logged
    model = load(settings, 2)
    for prediction in predictions[:22:7]:
        answer = ask(prediction.at, prediction.entity | prediction.request, version=2).json()
        assert (answer["version"], answer["arm"], answer["logged"]) == (2, None, prediction.id)
        assert answer["value"] == predict(model, *prediction.features.values())
        assert answer["value"] != prediction.value


def test_a_request_that_was_not_logged_has_the_rows_and_events_of_the_moment(logged, ask):
    settings, predictions, _ = logged
    model = load(settings, 3)
    with Workspace(settings) as workspace:
        events = workspace.lake.table("clicks").scan().filter("_valid").collect()
    moment = predictions[0].at - timedelta(minutes=9, seconds=30)
    values = set()
    for product in range(12):
        body = {"user_id": product % 3, "product_id": product, "price": 2.0}
        answer = ask(moment, body, version=3).json()
        at = micros(moment)
        begin = (at - DAY) // (DAY // 24) * (DAY // 24)
        count = sum(
            begin <= micros(row["at"]) < at
            and micros(row["_known_at"]) < at
            and row["user_id"] == body["user_id"]
            for row in events.iter_rows(named=True)
        )
        since = moment - timedelta(days=7)
        known = [
            price
            for number, changed, price in mean_prices(predictions)
            if number == product and since <= changed <= moment
        ]
        views = 0 if known else None
        assert answer["features"] == {"facts__views": views, "recent__clicks": count}
        assert (answer["logged"], answer["missing"]) == (None, ["facts__views"] if views is None else [])
        assert answer["value"] == predict(model, views, count)
        values.add((views, count))
    assert len(values) > 1


def test_the_version_of_that_time_answers(logged, ask):
    settings, predictions, client = logged
    put_release(settings, Arm(2))
    body = {"user_id": 1, "product_id": 7, "price": 9.0}

    def live_version():
        return client.post("/predict/purchase", json=body).json()["version"]

    until(lambda: live_version() == 2)
    answer = ask(predictions[-1].at, body).json()
    assert (answer["version"], answer["arm"], answer["logged"]) == (1, "champion", None)


def test_a_release_that_answered_nobody_does_not_answer_for_the_past(logged):
    settings, predictions, _ = logged
    first, last = predictions[0], predictions[-1]
    with Workspace(settings) as workspace:
        real = next(release for release in history(workspace.log, "purchase") if release.id == first.release)
    other = msgspec.structs.replace(real, id="never activated", at=first.at - timedelta(minutes=1))
    body = msgspec.json.encode({"user_id": 1, "product_id": 7, "price": 9.0})
    refused = "never activated was recorded .* last one was answered by version 1, .* &version=1"

    def answer(release, moment, version=None):
        predictor = AsOfPredictor(settings)
        try:
            predictor._follower.poll()
            predictor._follower.histories["purchase"] = [release]
            return msgspec.json.decode(predictor.answer("purchase", AsOf(moment, version), body))["version"]
        finally:
            predictor.close()

    with pytest.raises(NoHistory, match=refused):
        answer(other, last.at)
    assert answer(other, last.at, version=1) == 1
    assert answer(other, first.at - timedelta(seconds=1)) == 1  # no request tells
    assert answer(msgspec.structs.replace(other, at=last.at), last.at) == 1  # replicas had no time yet
    assert answer(msgspec.structs.replace(other, id=real.id), last.at) == 1


@pytest.mark.parametrize(
    ("moment", "query", "status", "message"),
    [
        ("2020-01-01", {}, 400, "has no offset"),
        ("2020-01-01T10:00:00", {}, 400, "has no offset"),
        ("yesterday", {}, 400, "is not a moment"),
        ("0001-01-01T00:00:00+14:00", {}, 400, "is not a moment"),
        ("2999-01-01T00:00:00Z", {}, 400, "is not past"),
        ("2020-01-01T00:00:00Z", {}, 422, "was not released at 2020-01-01T00:00:00+00:00; it was first at"),
        ("2020-01-01T00:00:00Z", {"version": "1"}, 422, "table 'facts', which the features of view 'facts'"),
        ("2020-01-01T00:00:00Z", {"version": "-1"}, 400, "is not the number of a version"),
        ("2020-01-01T00:00:00Z", {"colour": "red"}, 400, "there may only be version"),
        ("2020-01-01T00:00:00Z", {"explain": "yes"}, 400, "which must be 0 or 1"),
    ],
)
def test_a_moment_that_cannot_be_answered_is_named(ask, moment, query, status, message):
    answer = ask(moment, {"user_id": 1, "product_id": 7, "price": 9.0}, **query)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_window_before_the_first_event_is_no_count_of_0(logged):
    settings, _, _ = logged
    features = pl.DataFrame({"facts__views": [3.0, None], "recent__clicks": [0.0, 0.0]})
    with Workspace(settings) as workspace:
        first = workspace.lake.table("clicks").scan().filter("_valid").select(pl.col("at").min()).collect()
        history, plan = History(workspace.lake, workspace.log), plan_with_clicks()
        for moment in (first.item() - timedelta(days=400), first.item()):
            with pytest.raises(NoHistory, match="table 'clicks', which the features of view 'recent'"):
                history.check_begins(plan, features, moment)
        history.check_begins(plan, features, first.item() + timedelta(microseconds=1))


def test_history_that_is_not_ingested_is_waited_for_whenever_it_happened(logged):
    """An event that is loaded as history counts from its own time, which is not that of its arrival."""
    settings, predictions, _ = logged
    moment = predictions[-1].at
    with Workspace(settings) as workspace:
        history = History(workspace.lake, workspace.log)
        workspace.log.create("later")
        workspace.log.append("later", [b"{}"])
        history._check_topic("later", "later", moment)
        workspace.log.append("later", [b"{}"], headers=[{HISTORY: b"1"}])
        with pytest.raises(Unavailable, match="topic later is not ingested up to"):
            history._check_topic("later", "later", moment)


def test_an_invalid_instance_is_named(logged, ask):
    _, predictions, client = logged
    moment = predictions[-1].at
    good = {"user_id": 1, "product_id": 7, "price": 9.0}
    answer = ask(moment, {"instances": [good, good | {"price": "dear"}]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "instances[1].price")
    answer = ask(moment, {"instances": [good, good | {"facts__views": 3}]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "instances[1].facts__views")
    assert ask(moment, good | {"product_id": 21}, version=4).json()["error"]["code"] == "missing_features"
    assert ask(moment, good | {"price": 1.0}, version=5).json()["error"]["code"] == "feature_failed"
    for path in ("/v1/models/purchase:predict", "/v2/models/purchase/infer", "/purchase/invocations"):
        refused = client.post(path, params={"as_of": moment.isoformat()}, json={})
        assert refused.status_code == 400
        assert "no query parameters" in refused.text


def test_events_that_are_not_ingested_are_waited_for(logged, ask):
    settings, _, client = logged
    body = {"user_id": 1, "product_id": 7, "price": 9.0}
    put_events(settings, "clicks", [{"at": now(), "user_id": 1, "page": 1}])
    moment = now()
    answer = ask(moment, body, version=3)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "topic clicks is not ingested up to" in answer.json()["error"]["message"]
    assert client.post("/predict/purchase", json=body).status_code == 200


def test_the_process_is_started_again_after_a_kill(logged, ask):
    _, predictions, client = logged
    prediction = predictions[0]
    body = prediction.entity | prediction.request
    assert ask(prediction.at, body).status_code == 200
    endpoint = client.endpoint
    os.kill(endpoint._handler._as_of._lane._process.pid, signal.SIGKILL)
    answers = [ask(prediction.at, body) for _ in range(2)]
    assert answers[-1].json()["value"] == prediction.value
    assert answers[0].status_code in (200, 503)


def test_a_row_that_a_truncate_or_a_snapshot_removed_is_not_known_afterwards(tmp_path):
    shop = Shop(tmp_path)
    shop.ingest(*(change("c", n, {"id": n, "name": "a"}) for n in (1, 2)))
    shop.ingest(change("t", 5), change("c", 6, {"id": 2, "name": "b"}), change("c", 7, {"id": 4, "name": "d"}))
    shop.ingest(change("r", 20, {"id": 2, "name": "b"}, snapshot="last"))
    view = AsOfView("now", ("id",), shop.contract.table, "_changed_at", (PlanField("name", "string"),))
    plan = FeaturePlan("m", (EntityKey("id", "id", "int64"),), (view,), (FeatureRef("now", "name", "string"),))
    names = {}
    for second in (4, 5, 19, 20):
        moment = from_micros(NOON + second * 1_000_000)
        for number in (1, 2, 4):
            request = {"id": number}
            read = History(shop.lake, shop.log).reader(plan, [request], moment)
            label = pl.DataFrame({**request, "event_timestamp": [moment]})
            names.setdefault(second, []).append(join(label, plan, read)["now__name"][0])
    shop.log.close()
    assert names == {4: ["a", "a", None], 5: [None] * 3, 19: [None, "b", "d"], 20: [None, "b", None]}


def test_tables_are_read_as_readers_see_them_not_at_their_newest_snapshot(tmp_path):
    settings = load_settings(make_project(tmp_path / "p").root)
    with Workspace(settings) as workspace:
        lake, log = workspace.lake, workspace.log
        rows = {name: write_facts(lake, name, 1) for name in ("facts", "others")}
        keep_snapshots(lake, rows)
        write_record(lake, VisibleRecord(rows, {"hidden": "a build has not ended"}), None)
        for name in ("facts", "hidden"):
            write_facts(lake, name, 2)
        views = [
            AsOfView(name, ("id",), name, "at", (PlanField("x", "int64"),))
            for name in ("facts", "others", "hidden")
        ]
        moment = from_micros(NOON + 1_000_000)
        label = pl.DataFrame({"id": [1], "event_timestamp": [moment]})

        def read_plan(*chosen):
            refs = tuple(FeatureRef(view.name, "x", "int64") for view in chosen)
            plan = FeaturePlan("m", (EntityKey("id", "id", "int64"),), chosen, refs)
            history = History(lake, log)
            features = join(label, plan, history.reader(plan, [{"id": 1}], moment))
            history.check_begins(plan, features, moment)
            return features.row(0)[2:]

        assert read_plan(*views[:2]) == (1, 1)
        with pytest.raises(NoHistory, match="'hidden' is not visible yet: a build has not ended"):
            read_plan(views[2])


def write_facts(lake, name, x):
    rows = pl.DataFrame({"id": [1], "at": [from_micros(NOON)], "x": [x]}).to_arrow()
    return lake.ensure(name, rows.schema).overwrite(rows, properties={CODE: "code"}).id
