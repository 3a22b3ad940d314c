"""Micro-batches: requests of one turn share a lookup and a model call; each has the value that it has alone."""

import socket
from collections import Counter
from contextlib import closing
from contextvars import copy_context
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from tests.serving.running import INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import (
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
    put_trained,
)
from tests.until import until

from headrace import log as logs
from headrace.declare.trainers import Sklearn, Torch, XGBoost
from headrace.features.online.lookup import Lookup
from headrace.features.online.store import StoreUnavailable
from headrace.features.plan import PlanField
from headrace.kernel.errors import Unavailable
from headrace.serving import release as releases
from headrace.serving.canary import CanaryPlan
from headrace.serving.errors import MissingFeatures
from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.predictor import SingleRequest, SpoolingPredictor
from headrace.serving.release import Arm
from headrace.serving.servable import Servable
from headrace.serving.spool import Spool


def declare(kind):
    if kind == "xgboost":
        return XGBoost(num_boost_round=60)
    if kind == "torch":
        pytest.importorskip("torch")
        from headrace.declare.trainers import MLP

        return Torch(MLP((16,)), epochs=2)
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    return Sklearn(LogisticRegression() if kind == "linear" else HistGradientBoostingClassifier(max_iter=20))


def put_products(settings):
    random = np.random.default_rng(5)
    rows = {n: (float(random.normal() * 10), int(random.integers(-200, 200))) for n in range(0, 200, 3)}
    put_features(settings, plan_of(), rows)


def single(**fields):
    return SingleRequest({**INSTANCE, **fields}, None, copy_context())


@pytest.mark.parametrize("kind", ["xgboost", "trees", "linear", "torch"])
def test_requests_that_are_answered_together_have_the_values_that_they_have_alone(tmp_path, kind):
    settings = make_project(tmp_path / "project")
    put_trained(settings, declare(kind))
    put_products(settings)
    put_release(settings, Arm(1))
    models, predictor = Models(settings), SpoolingPredictor(settings.place("serving", "spool"), Metrics())
    model = models.released["purchase"]
    requests = [single(product_id=n) for n in range(200)]
    together = predictor.predict_together(model, requests)
    alone = [predictor.predict(model, [request.instance])[0] for request in requests]
    assert [answer.value for answer in together] == [answer.value for answer in alone]
    assert len({answer.value for answer in together}) > 20
    for answer, other in zip(together, alone, strict=True):
        assert (answer.shared, other.shared) == (True, False)
        same = {"id": "", "at": other.at, "latency_ms": 0.0, "shared": False}
        records = [
            msgspec.json.encode(msgspec.structs.replace(prediction, **same)) for prediction in (answer, other)
        ]
        assert records[0] == records[1]
    for end in (2, 3, 9, 64, 131):
        values = [answer.value for answer in predictor.predict_together(model, requests[:end])]
        assert values == [answer.value for answer in alone[:end]]
    models.close()
    predictor.close()


def test_a_bad_request_does_not_fail_its_neighbours(project, boosters, predictor):
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_release(project, Arm(3))
    model = Models(project).released["purchase"]
    requests = [single(), single(product_id=404), single(product_id=8)._replace(version="9"), single()]
    good, missing, unknown, last = predictor.predict_together(model, requests)
    assert isinstance(missing, MissingFeatures)
    assert missing.instance is None
    assert unknown.code == "no_such_version"
    assert good.value == last.value > 0.5
    logged = ship_predictions(project)
    assert [(prediction.id, prediction.error) for prediction in logged if prediction.error is None] == [
        (good.id, None),
        (last.id, None),
    ]
    assert [prediction.error for prediction in logged if prediction.error] == ["missing_features"]


def test_a_record_that_is_too_large_does_not_fail_its_neighbours(project, boosters, metrics, predictor):
    put_bundle(project, boosters, 3, plan_of(request=(PlanField("note", "string"),)))
    put_release(project, Arm(3))
    predictor.max_bytes = 2_000
    requests = [single(note="a"), single(note="b" * 2_000), single(note="c")]
    answers = predictor.predict_together(Models(project).released["purchase"], requests)
    assert [type(answer).__name__ for answer in answers] == ["Prediction", "OversizedPrediction", "Prediction"]
    (counts,) = metrics.counts.arms
    assert (counts.predictions, sum(counts.latency.buckets)) == (2, 1)  # what was answered, and one call
    ids = {answer.id for answer in answers if isinstance(answer, Prediction)}
    assert {prediction.id for prediction in ship_predictions(project)} == ids


def test_a_store_that_is_away_is_waited_for_once(project, metrics, predictor, monkeypatch):
    calls = []

    def fail(self, requests, at):
        calls.append(len(requests))
        raise StoreUnavailable("away")

    model = Models(project).released["purchase"]
    monkeypatch.setattr(Lookup, "features", fail)
    answers = predictor.predict_together(model, [single(), single()])
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
    assert calls == [2]
    assert metrics.counts.arms[0].errors == {"unavailable": 2}


def test_a_spool_that_cannot_be_written_refuses_each_and_predicts_once(
    project, metrics, predictor, monkeypatch
):
    calls = []

    def predict(self, matrix, indexes):
        calls.append(len(matrix))
        return [0.5] * len(matrix), None

    monkeypatch.setattr(Servable, "predict_each", predict)
    predictor.close()
    answers = predictor.predict_together(Models(project).released["purchase"], [single(), single()])
    assert [type(answer) for answer in answers] == [Unavailable] * 2
    assert calls == [2]
    assert [counts.predictions for counts in metrics.counts.arms] == [0]


def test_each_arm_answers_its_own_requests_and_all_share_a_write(project, predictor, metrics, monkeypatch):
    put_release(project, Arm(1, 0.5), Arm(2, 0.5, name="challenger"))
    model = Models(project).released["purchase"]
    requests = [single(user_id=n) for n in range(40)]
    writes, append = [], Spool.append
    with monkeypatch.context() as patch:
        patch.setattr(
            Spool, "append", lambda spool, *records: writes.append(len(records)) or append(spool, *records)
        )
        answers = predictor.predict_together(model, requests)
    assert writes == [40]
    assert {prediction.id for prediction in ship_predictions(project)} == {answer.id for answer in answers}
    assert {counts.arm: counts.predictions for counts in metrics.counts.arms} == Counter(
        answer.arm for answer in answers
    )
    alone = [predictor.predict(model, [request.instance])[0] for request in requests]
    assert [(answer.arm, answer.value) for answer in answers] == [(other.arm, other.value) for other in alone]
    assert {answer.arm for answer in answers} == {"champion", "challenger"}


def test_while_a_canary_is_compared_one_turn_in_eight_is_answered_request_by_request(project, predictor):
    """So a latency says nothing of how many requests the arm gets."""
    plan = CanaryPlan("c", 1, 2, [0.25, 1.0], 0, 100, 0, "right", "before")
    arms = [Arm(1, 0.75), Arm(2, 0.25, name="canary")]
    with closing(logs.open(project.log.url)) as topics:
        releases.append(topics, releases.make("purchase", arms, by="anna", why="", canary=plan))
    models = Models(project)
    turn = [single(user_id=user) for user in range(12)]
    shared = []
    for _ in range(17):
        answers = predictor.predict_together(models.released["purchase"], turn)
        assert {answer.arm for answer in answers} == {"champion", "canary"}
        shared.append({answer.shared for answer in answers})
        is_apart = len({answer.at for answer in answers}) > 2
        assert shared[-1] == {not is_apart}
    assert shared == [{number % 8 > 0} for number in range(17)]
    (alone,) = predictor.predict_together(models.released["purchase"], turn[:1])
    assert not alone.shared
    models.close()


def test_a_full_spool_refuses_each(project):
    predictor = SpoolingPredictor(project.place("serving", "spool"), Metrics(), spool_limit=0)
    answers = predictor.predict_together(Models(project).released["purchase"], [single(), single()])
    assert [type(answer) for answer in answers] == [Unavailable] * 2
    predictor.close()


def test_requests_over_http_share_calls_and_are_answered_each_by_its_own(project):
    """A burst over 48 connections, with invalid requests between, until requests were seen to share a call."""
    put_products(project)
    with run_endpoint(project.with_values(max_batch_size=64)) as client:
        alone = [client.post("/predict/purchase", json={**INSTANCE, "product_id": n}).json() for n in range(48)]
        address = urlsplit(str(client.base_url))
        number = 48

        def make(n):
            wrong = b',"pric":1' if n % 8 == 3 else b""
            body = b'{"user_id": 1, "product_id": %d, "price": 3.5%s}' % (n, wrong)
            head = b"POST /predict/purchase HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

        def send_burst():
            nonlocal number
            connections = [socket.create_connection((address.hostname, address.port)) for _ in range(48)]
            for n, connection in enumerate(connections):
                connection.sendall(make(n))
            for n, connection in enumerate(connections):
                with connection, connection.makefile("rb") as stream:
                    head, _, body = stream.read().partition(b"\r\n\r\n")
                if n % 8 == 3:
                    assert head.startswith(b"HTTP/1.1 422")
                    assert msgspec.json.decode(body)["error"]["field"] == "pric"
                    continue
                number += 1
                answer = msgspec.json.decode(body)
                assert {**answer, "id": ""} == {**alone[n], "id": ""}
            samples = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
            labels = '{model="purchase",version="1",arm="champion"}'
            assert int(samples[f"headrace_predictions_total{labels}"]) == number
            return int(samples[f"headrace_prediction_seconds_count{labels}"]) < number

        until(send_burst)
    assert len({prediction.id for prediction in ship_predictions(project)}) == number
