"""The endpoint over HTTP: answers, arms, missing features, wrong requests, and what is kept of each."""

import subprocess
import sys
from contextlib import contextmanager

import httpx
import msgspec
import pytest
from tests.serving.small import make_project, plan_of, put_bundle, put_features, put_release
from tests.until import until

from headrace import log
from headrace.features.plan import PlanField
from headrace.http.serve import serve
from headrace.kernel.ids import id_time
from headrace.serving import prediction_log, release
from headrace.serving.endpoint import MAX_BODY, Endpoint
from headrace.serving.models import Models
from headrace.serving.prediction_log import Prediction
from headrace.serving.release import Arm

ASKED = {"user_id": 1, "product_id": 7, "price": 3.5}
FEW = {"user_id": 1, "product_id": 8, "price": 3.5}


@contextmanager
def answering(settings, host="127.0.0.1"):
    endpoint = Endpoint(Models(settings), settings.place("serving", "spool"), host)
    with serve(endpoint.app, "127.0.0.1", 0) as served, httpx.Client(base_url=served.url) as client:
        yield client
    endpoint.close()


@pytest.fixture
def client(project):
    with answering(project) as client:
        yield client


def kept(settings):
    """The predictions that were shipped to the log, oldest first."""
    topics = log.open(settings.log.url)
    topics.create(prediction_log.TOPIC)
    prediction_log.ship(settings.place("serving", "spool"), topics)
    values = topics.read(prediction_log.TOPIC, {0: 0}, 100_000).values
    topics.close()
    return [msgspec.json.decode(value, type=Prediction) for value in values]


def test_an_answer_and_what_is_kept_of_it(client, project):
    answer = client.post("/predict/purchase", json=ASKED)
    assert answer.status_code == 200
    body = answer.json()
    assert {key: body[key] for key in ("model", "version", "arm", "missing")} == {
        "model": "purchase", "version": 1, "arm": "champion", "missing": [],
    }  # fmt: skip
    assert body["score"] > 0.5
    assert client.post("/predict/purchase", json=FEW).json()["score"] < 0.5
    one = kept(project)[0]
    assert (one.id, one.score, one.version, one.shadow) == (body["id"], body["score"], 1, False)
    assert (one.entity, one.request) == ({"user_id": 1, "product_id": 7}, {"price": 3.5})
    assert one.features == {"facts__mean_price": 9.5, "facts__views": 190.0}
    assert one.positions["facts"]["snapshot"] == 41
    assert abs((id_time(one.id) - one.at).total_seconds()) < 5


def test_explain_gives_the_features_as_the_model_saw_them(client):
    body = client.post("/predict/purchase?explain=1", json=ASKED).json()
    assert body["features"] == {"facts__mean_price": 9.5, "facts__views": 190.0}
    assert "features" not in client.post("/predict/purchase", json=ASKED).json()


@pytest.mark.parametrize("several", [3, 200])
def test_instances_are_answered_in_their_order(client, project, several):
    asked = [{**ASKED, "product_id": 7 if n % 3 else 8} for n in range(several)]
    answers = client.post("/predict/purchase", json={"instances": asked}).json()["predictions"]
    assert [one["score"] > 0.5 for one in answers] == [one["product_id"] == 7 for one in asked]
    assert [one.id for one in kept(project)] == [one["id"] for one in answers]


def test_an_unknown_entity_is_answered_by_the_models_policy(client):
    body = client.post("/predict/purchase?explain=1", json={**ASKED, "product_id": 404}).json()
    assert body["missing"] == ["facts__mean_price", "facts__views"]
    assert body["features"] == {"facts__mean_price": None, "facts__views": None}


def test_a_model_that_refuses_what_is_missing_names_it(project, boosters):
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_release(project, Arm(3))
    with answering(project) as client:
        assert client.post("/predict/purchase", json=ASKED).status_code == 200
        answer = client.post("/predict/purchase", json={**ASKED, "product_id": 404})
        assert answer.status_code == 422
        assert answer.json()["error"]["missing"] == ["facts__mean_price", "facts__views"]
    assert len(kept(project)) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/predict/purchase", b'{"user_id": 1, "price": 3}', 422, "product_id"),
        ("/predict/purchase", b'{"user_id": 1, "product_id": "x", "price": 3}', 422, "product_id"),
        ("/predict/purchase", b'{"user_id": 1, "product_id": 1, "price": 3, "pric": 1}', 422, "pric"),
        ("/predict/purchase", b"{", 400, None),
        ("/predict/purchase", b"[" + b"1," * 3_000_000 + b"1]", 413, None),
        ("/predict/absent", b'{"user_id": 1}', 404, "model"),
        ("/predict/", b"{}", 404, "model"),
        ("/elsewhere", b"{}", 404, None),
    ],
)
def test_a_bad_request_names_its_field(client, project, path, body, status, field):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"].get("field") == field
    assert kept(project) == []


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("", {"Content-Type": "application/x-ndjson"}, 415, "content_type"),
        ("", {"Content-Type": "text/plain"}, 415, "content_type"),
        ("", {"Content-Type": "application/json; charset=utf-16"}, 415, "charset"),
        ("", {"Content-Encoding": "gzip"}, 415, "content_encoding"),
        ("?nope=1", {}, 400, "query"),
        ("?EXPLAIN=1", {}, 400, "query"),
        ("?explain=1&explain=1", {}, 400, "query"),
        ("?explain=yes", {}, 400, "query"),
        ("", {"Host": "evil.example"}, 421, "host"),
    ],
)
def test_a_request_that_is_not_plain_is_refused_as_json(client, project, path, headers, status, code):
    answer = client.post(f"/predict/purchase{path}", json=ASKED, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert kept(project) == []


def test_head_asks_for_health_without_a_body(client):
    answer = client.head("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.head("/predict/purchase").status_code == 405
    assert client.head("/elsewhere").status_code == 404


def test_a_release_is_taken_up_and_a_customer_stays_on_an_arm(client, project):
    made = put_release(project, Arm(1, 0.5), Arm(2, 0.5, name="challenger"))
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == made.id, seconds=30)
    versions = {
        user: {
            client.post("/predict/purchase", json={**asked, "user_id": user}).json()["version"]
            for asked in (ASKED, FEW)
        }
        for user in range(40)
    }
    assert all(len(seen) == 1 for seen in versions.values())
    assert {version for seen in versions.values() for version in seen} == {1, 2}
    assert {one.release for one in kept(project)} == {made.id}


def test_a_shadow_gets_copies_and_answers_nobody(client, project):
    made = put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == made.id, seconds=30)
    body = client.post("/predict/purchase", json=ASKED).json()
    assert body["version"] == 1
    until(lambda: len(kept(project)) == 2, seconds=30)
    answer, copy = sorted(kept(project), key=lambda one: one.shadow)
    assert (copy.answers, copy.version, copy.shadow, copy.arm) == (answer.id, 2, True, "shadow")
    assert answer.score > 0.5 > copy.score


def test_a_release_that_cannot_be_put_in_place_leaves_the_one_before(client, project, boosters):
    broken = put_bundle(project, boosters, 5, plan_of(), slope=1)
    (broken / "plan.json").write_bytes((broken / "plan.json").read_bytes() + b" ")
    put_release(project, Arm(5))
    until(lambda: "purchase" in client.get("/models").json()["failed"], seconds=30)
    assert "changed" in client.get("/models").json()["failed"]["purchase"]["why"]
    assert client.post("/predict/purchase", json=ASKED).json()["version"] == 1
    put_release(project, Arm(2))
    until(lambda: client.post("/predict/purchase", json=ASKED).json()["version"] == 2, seconds=30)
    assert client.get("/models").json()["failed"] == {}


def test_a_release_record_that_nothing_can_be_made_of_does_not_stop_the_following(client, project):
    topics = log.open(project.log.url)
    bad = msgspec.structs.replace(release.make("purchase", [Arm(2)], by="test", why=""), arms=[])
    release.append(topics, bad)
    topics.close()
    until(lambda: "purchase" in client.get("/models").json()["failed"], seconds=30)
    assert client.get("/models").json()["failed"]["purchase"]["release"] == bad.id
    assert client.post("/predict/purchase", json=ASKED).json()["version"] == 1
    put_release(project, Arm(2))
    until(lambda: client.post("/predict/purchase", json=ASKED).json()["version"] == 2, seconds=30)


def test_the_last_releases_are_kept_for_when_the_log_is_away(project):
    with answering(project):
        pass
    project.place("log").rename(project.place("log-away"))
    project.place("log").write_text("no folder")
    with answering(project) as client:
        assert client.post("/predict/purchase", json=ASKED).json()["version"] == 1


def test_without_a_release_it_is_up_and_says_so(tmp_path, boosters):
    settings = make_project(tmp_path / "empty")
    with answering(settings) as client:
        assert client.get("/healthz").json() == {"status": "ok", "models": []}
        assert client.post("/predict/purchase", json=ASKED).status_code == 404
        put_bundle(settings, boosters, 1, plan_of())
        put_features(settings, plan_of(), {7: (9.5, 190)})
        put_release(settings, Arm(1))
        until(lambda: client.post("/predict/purchase", json=ASKED).status_code == 200, seconds=30)


def test_off_loopback_the_token_is_asked_for(project, monkeypatch):
    monkeypatch.setenv("HEADRACE_TOKEN", "a-token-of-enough-length")
    with answering(project, host="0.0.0.0") as client:
        assert client.post("/predict/purchase", json=ASKED).status_code == 401
        allowed = {"Authorization": "Bearer a-token-of-enough-length"}
        assert client.post("/predict/purchase", json=ASKED, headers=allowed).status_code == 200
        assert client.get("/models").status_code == 401


def test_what_was_answered_is_counted(client):
    client.post("/predict/purchase", json=ASKED)
    client.post("/predict/purchase", json={**ASKED, "product_id": 404})
    client.post("/predict/purchase", json={})
    text = client.get("/metrics").text
    assert 'headrace_predictions_total{model="purchase",version="1",arm="champion"} 2' in text
    assert 'headrace_missing_features_total{model="purchase",feature="facts__views"} 1' in text
    assert 'headrace_predict_answers_total{status="200"} 2' in text
    assert 'headrace_predict_answers_total{status="422"} 1' in text
    assert "headrace_predict_seconds_count 3" in text


def test_a_full_disk_gives_no_answer_that_nobody_could_trace(project, monkeypatch):
    def full(self, *predictions):
        raise OSError(28, "No space left on device")

    with answering(project) as client:
        monkeypatch.setattr(prediction_log.Spool, "append", full)
        answer = client.post("/predict/purchase", json=ASKED)
        assert answer.status_code == 503
        assert "cannot be kept" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["sqlite", "kafka", "unknown"])
def test_a_prediction_that_its_topic_does_not_take_is_no_answer(tmp_path, boosters, request, monkeypatch, kind):
    if kind == "kafka":
        monkeypatch.setenv("HEADRACE_LOG", request.getfixturevalue("empty_broker").url)
    settings = make_project(tmp_path / "text")
    plan = plan_of(request=(PlanField("event_type", "string"),))
    put_bundle(settings, boosters, 1, plan)
    put_features(settings, plan, {7: (9.5, 190)})
    put_release(settings, Arm(1))
    if kind != "unknown":  # without the topic nobody can say how much it takes: then what every one takes
        topics = log.open(settings.log.url)
        topics.create(prediction_log.TOPIC)
        topics.close()

    def ask(size, *others):
        asked = [{"user_id": 1, "product_id": 7, "event_type": "x" * one} for one in (size, *others)]
        return client.post("/predict/purchase", json={"instances": asked} if others else asked[0])

    taken, refused = (2 << 20, MAX_BODY - 80) if kind == "sqlite" else (900_000, 1_048_400)
    with answering(settings) as client:
        assert ask(taken).status_code == 200
        for answer, place in ((ask(refused), 0), (ask(MAX_BODY - 80), 0), (ask(4, MAX_BODY - 400), 1)):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["instance"]) == (413, "too_large", place)
            assert "retry-after" not in answer.headers
        assert ask(5).status_code == 200
        assert 'headrace_predict_answers_total{status="413"} 3' in client.get("/metrics").text
    assert [len(one.request["event_type"]) for one in kept(settings)] == [taken, 5]
    assert prediction_log.aside(settings.place("serving", "spool")) == []


def test_the_replica_loads_no_engine_that_it_does_not_need(project):
    program = (
        "import sys; from pathlib import Path; from headrace.config.settings import load_settings\n"
        "from headrace.serving.endpoint import Endpoint; from headrace.serving.models import Models\n"
        f"settings = load_settings(Path({str(project.root)!r}))\n"
        "Endpoint(Models(settings), settings.place('serving', 'spool'), '127.0.0.1').close()\n"
        "print(*sorted({'feast', 'mlflow', 'pandas', 'pyiceberg', 'ray', 'sklearn', 'xgboost'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
