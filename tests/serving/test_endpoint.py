"""The endpoint over HTTP: responses, arms, missing features, invalid requests, and the logged predictions."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from tests.docs.blocks import Reader
from tests.serving.running import FEW_VIEWS, INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import (
    FACTS,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace import log, registry
from headrace.features.plan import AsOfView, FeatureRef, PlanField
from headrace.kernel.ids import id_time
from headrace.serving import models, release
from headrace.serving.endpoint import MAX_BODY
from headrace.serving.kept import find_kept_releases, read_kept_releases
from headrace.serving.models import Models
from headrace.serving.prediction import TOPIC
from headrace.serving.release import Arm
from headrace.serving.servable import Servable
from headrace.serving.spool import Spool, find_oversized


@pytest.fixture
def client(project):
    with run_endpoint(project) as client:
        yield client


def await_release(client, release):
    until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == release.id)


def test_a_replica_ends_while_a_server_does_not_answer_the_thread_that_follows_the_releases(
    project, monkeypatch
):
    monkeypatch.setattr("headrace.serving.endpoint._PATIENCE", 0.05)
    entered, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def wait(models):
        entered.set()
        assert go_on.wait(60)
        return False

    monkeypatch.setattr(Models, "poll", wait)
    monkeypatch.setattr(Models, "close", lambda models: closed.set())
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 200
        assert entered.wait(60)
    assert not closed.is_set()  # the thread uses its connections
    assert len(ship_predictions(project)) == 1
    assert not list(project.place("serving", "spool").glob("*.spool"))  # it is complete
    go_on.set()


def test_what_a_new_version_takes_is_done_beside_the_event_loop_which_does_not_wait_for_the_disk(
    project, monkeypatch
):
    """A loop that stands still delays every request."""
    works = ("load_servable", "ReleasedModel", "write_kept_releases", "remove_unneeded", "check_filled")
    threads = {}

    def note(module, name):
        work = getattr(module, name)

        def do(*arguments, **options):
            threads.setdefault(name, set()).add(threading.current_thread().name)
            return work(*arguments, **options)

        monkeypatch.setattr(module, name, do)

    with run_endpoint(project) as client:
        for name in works:
            note(models, name)
        note(os, "fsync")
        await_release(client, put_release(project, Arm(2)))
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 2
        until(lambda: "remove_unneeded" in threads)
    synced = threads.pop("fsync")
    assert sorted(threads.items()) == [(name, {"releases"}) for name in sorted(works)]
    assert not any(name.startswith("http") for name in synced)


def test_a_response_and_the_logged_prediction(client, project):
    response = client.post("/predict/purchase", json=INSTANCE)
    assert response.status_code == 200
    body = response.json()
    assert {key: body[key] for key in ("model", "version", "arm", "missing")} == {
        "model": "purchase",
        "version": 1,
        "arm": "champion",
        "missing": [],
    }
    assert body["value"] > 0.5
    assert client.post("/predict/purchase", json=FEW_VIEWS).json()["value"] < 0.5
    logged = ship_predictions(project)[0]
    assert (logged.id, logged.value, logged.version) == (body["id"], body["value"], 1)
    assert (logged.shadow, logged.shadow_of, logged.instance) == (False, None, 0)
    assert (logged.entity, logged.request) == ({"user_id": 1, "product_id": 7}, {"price": 3.5})
    assert logged.features == {"facts__mean_price": 9.5, "facts__views": 190.0}
    assert logged.positions["facts"]["snapshot"] == 41
    assert logged.plan == plan_of().digest
    assert logged.latency_ms > 0
    assert abs((id_time(logged.id) - logged.at).total_seconds()) < 60


def test_explain_adds_the_features_as_the_model_saw_them(client):
    body = client.post("/predict/purchase?explain=1", json=INSTANCE).json()
    assert body["features"] == {"facts__mean_price": 9.5, "facts__views": 190.0}
    assert "features" not in client.post("/predict/purchase", json=INSTANCE).json()


@pytest.mark.parametrize("count", [3, 200])
def test_instances_are_answered_in_their_order(client, project, count):
    instances = [{**INSTANCE, "product_id": 7 if n % 3 else 8} for n in range(count)]
    answers = client.post("/predict/purchase", json={"instances": instances}).json()["predictions"]
    has_many_views = [instance["product_id"] == 7 for instance in instances]
    assert [answer["value"] > 0.5 for answer in answers] == has_many_views
    logged = ship_predictions(project)
    assert [prediction.id for prediction in logged] == [answer["id"] for answer in answers]
    assert [prediction.instance for prediction in logged] == list(range(count))


def test_an_unknown_entity_has_missing_features(client):
    body = client.post("/predict/purchase?explain=1", json={**INSTANCE, "product_id": 404}).json()
    assert body["missing"] == ["facts__mean_price", "facts__views"]
    assert body["features"] == {"facts__mean_price": None, "facts__views": None}


def test_a_model_that_refuses_missing_features_names_them(project, boosters):
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_release(project, Arm(3))
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 200
        answer = client.post("/predict/purchase", json={**INSTANCE, "product_id": 404})
        assert answer.status_code == 422
        assert answer.json()["error"]["missing"] == ["facts__mean_price", "facts__views"]
        products = (7, 404, 8, 405)
        several = {"instances": [{**INSTANCE, "product_id": product} for product in products]}
        error = client.post("/predict/purchase", json=several).json()["error"]
        assert (error["field"], error["instances"]) == ("instances[1]", [1, 3])
    answered, failed, *causes = ship_predictions(project)
    assert (answered.error, failed.error, failed.value) == (None, "missing_features", None)
    assert (failed.version, failed.arm, failed.entity["product_id"]) == (3, "champion", 404)
    # An arm that answers more instances of a request than another one has no more failures for that.
    assert [(cause.instance, cause.entity["product_id"]) for cause in causes] == [(1, 404), (3, 405)]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/predict/purchase", b'{"user_id": 1, "price": 3}', 422, "product_id"),
        ("/predict/purchase", b'{"user_id": 1, "product_id": "x", "price": 3}', 422, "product_id"),
        ("/predict/purchase", b'{"user_id": 1, "product_id": 1, "price": 3, "pric": 1}', 422, "pric"),
        ("/predict/purchase", b"{", 400, None),
        ("/predict/purchase", b"[" + b"1," * 9_000_000 + b"1]", 413, None),
        ("/predict/absent", b'{"user_id": 1}', 404, "model"),
        ("/predict/", b"{}", 404, "model"),
        ("/elsewhere", b"{}", 404, None),
    ],
)
def test_an_invalid_request_is_refused_and_its_field_named(client, project, path, body, status, field):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.json()["error"].get("field") == field
    assert ship_predictions(project) == []


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
def test_wrong_headers_and_queries_are_refused_as_json(client, project, path, headers, status, code):
    answer = client.post(f"/predict/purchase{path}", json=INSTANCE, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ship_predictions(project) == []


def test_head_asks_for_health_without_a_body(client):
    answer = client.head("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
    assert client.head("/predict/purchase").status_code == 405
    assert client.head("/elsewhere").status_code == 404


def test_a_release_is_activated_and_an_entity_stays_on_its_arm(client, project):
    released = put_release(project, Arm(1, 0.5), Arm(2, 0.5, name="challenger"))
    await_release(client, released)
    versions = {
        user: {
            client.post("/predict/purchase", json={**instance, "user_id": user}).json()["version"]
            for instance in (INSTANCE, FEW_VIEWS)
        }
        for user in range(40)
    }
    assert all(len(answering) == 1 for answering in versions.values())
    assert set().union(*versions.values()) == {1, 2}
    assert {prediction.release for prediction in ship_predictions(project)} == {released.id}


def test_a_shadow_predicts_copies_for_the_log_alone(client, project):
    released = put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    await_release(client, released)
    body = client.post("/predict/purchase", json=INSTANCE).json()
    assert body["version"] == 1
    until(lambda: len(ship_predictions(project)) == 2)
    answer, copy = sorted(ship_predictions(project), key=lambda prediction: prediction.shadow)
    assert (copy.shadow_of, copy.version, copy.shadow, copy.arm) == (answer.id, 2, True, "shadow")
    assert answer.value > 0.5 > copy.value


def test_a_shadow_that_fails_is_counted_and_does_no_harm(client, project, monkeypatch):
    """Whatever its model's library raises: torch, for example, raises RuntimeError."""
    await_release(client, put_release(project, Arm(1), Arm(2, shadow=True, name="shadow")))
    predict = Servable.predict

    def predict_unless_shadow(servable, *arguments):
        if servable.version == 2:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return predict(servable, *arguments)

    monkeypatch.setattr(Servable, "predict", predict_unless_shadow)
    assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
    until(lambda: "headrace_failed_shadows_total 1" in client.get("/metrics").text)
    assert len(ship_predictions(project)) == 1


def test_a_disk_that_is_full_keeps_no_release_from_being_in_force_and_the_next_start_has_it(
    project, monkeypatch
):
    def fail(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with closing(Models(project)) as models:
        second = put_release(project, Arm(2))
        with monkeypatch.context() as full:
            full.setattr("headrace.serving.kept.write_file", fail)
            assert models.poll()
            assert models.released["purchase"].release == second
            with closing(Models(project)) as started:
                assert started.released["purchase"].release == second
        assert not models.poll()
    assert read_kept_releases(find_kept_releases(project)) == {"purchase": second}


def test_a_release_that_cannot_be_activated_leaves_the_one_before_in_force(client, project, boosters):
    broken = put_bundle(project, boosters, 5, plan_of(), slope=1)
    (broken / "plan.json").write_bytes((broken / "plan.json").read_bytes() + b" ")
    put_release(project, Arm(5))
    until(lambda: "purchase" in client.get("/models").json()["failed"])
    assert "changed" in client.get("/models").json()["failed"]["purchase"]["why"]
    assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
    put_release(project, Arm(2))
    until(lambda: client.post("/predict/purchase", json=INSTANCE).json()["version"] == 2)
    assert client.get("/models").json()["failed"] == {}


UNFILLED = AsOfView("later", ("product_id",), "facts", "event_timestamp", FACTS.features, ttl=FACTS.ttl)


@pytest.fixture
def unfilled(project, boosters):
    """The plan of version 6, whose view has no values."""
    features = tuple(FeatureRef("later", ref.name, ref.dtype) for ref in plan_of().features)
    plan = msgspec.structs.replace(plan_of(), views=(UNFILLED,), features=features)
    put_bundle(project, boosters, 6, plan, slope=1)
    return plan


def test_a_version_whose_view_has_no_values_does_not_replace_one_that_works(client, project, unfilled):
    released = put_release(project, Arm(6))
    until(lambda: "purchase" in client.get("/models").json()["failed"])
    assert "view 'later' holds no values yet" in client.get("/models").json()["failed"]["purchase"]["why"]
    assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
    put_features(project, unfilled, {7: (9.5, 190)}, view=UNFILLED)
    await_release(client, released)
    assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 6


def test_a_replica_that_starts_stays_with_the_release_that_works(project, unfilled):
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
    released = put_release(project, Arm(6))
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
        assert client.get("/models").json()["failed"]["purchase"]["release"] == released.id
        put_features(project, unfilled, {7: (9.5, 190)}, view=UNFILLED)
        await_release(client, released)
        assert client.get("/models").json()["failed"] == {}


def test_each_later_start_also_stays_with_the_release_that_works(project, boosters, unfilled):
    put_bundle(project, boosters, 1, msgspec.structs.replace(plan_of(), model="other"), model="other")
    put_release(project, Arm(1), model="other")
    Models(project).close()
    released = put_release(project, Arm(6))
    for _ in range(2):
        with closing(Models(project)) as models:
            assert models.released["purchase"].versions == [1]
            assert models.failed["purchase"].release == released.id


def damage_bundle(project, version):
    (registry.open(project).bundle_folder("purchase", version) / "training.json").write_text("{} ")


def roll_back(project):
    with closing(log.open(project.log.url)) as topics:
        release.append(topics, release.make_rollback(topics, "purchase", by="test", why="worse"))


def test_a_start_with_a_damaged_bundle_answers_by_what_a_rollback_would_restore(project):
    put_release(project, Arm(2))
    roll_back(project)
    current = put_release(project, Arm(1), Arm(2, shadow=True, name="shadow"))
    with run_endpoint(project) as client:  # the release is kept for the next start
        assert client.get("/models").json()["models"]["purchase"]["release"]["id"] == current.id
    damage_bundle(project, 2)
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
        body = client.get("/models").json()
        assert [arm["version"] for arm in body["models"]["purchase"]["release"]["arms"]] == [1]
        assert body["failed"]["purchase"]["release"] == current.id


def test_a_version_that_was_rolled_back_answers_no_more_although_the_one_before_is_damaged(project):
    put_release(project, Arm(2))
    roll_back(project)
    damage_bundle(project, 1)
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 503


def test_a_log_without_its_releases_leaves_the_last_ones_in_force(project):
    current = put_release(project, Arm(2))
    with run_endpoint(project):
        pass
    shutil.rmtree(project.place("log"))
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 2
        assert client.get("/models").json()["models"]["purchase"]["release"]["id"] == current.id
        new = put_release(project, Arm(1))
        until(lambda: client.get("/models").json()["models"]["purchase"]["release"]["id"] == new.id)


def test_an_unusable_release_record_does_not_stop_later_ones(client, project):
    topics = log.open(project.log.url)
    bad = msgspec.structs.replace(release.make("purchase", [Arm(2)], by="test", why=""), arms=[])
    release.append(topics, bad)
    topics.close()
    until(lambda: "purchase" in client.get("/models").json()["failed"])
    assert client.get("/models").json()["failed"]["purchase"]["release"] == bad.id
    assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1
    put_release(project, Arm(2))
    until(lambda: client.post("/predict/purchase", json=INSTANCE).json()["version"] == 2)


def test_a_replica_starts_with_the_last_releases_while_the_log_is_away(project):
    with run_endpoint(project):
        pass
    project.place("log").rename(project.place("log-away"))
    project.place("log").write_text("no folder")
    with run_endpoint(project) as client:
        assert client.post("/predict/purchase", json=INSTANCE).json()["version"] == 1


def test_without_a_release_the_endpoint_runs_and_answers_404(tmp_path, boosters):
    settings = make_project(tmp_path / "empty")
    with run_endpoint(settings) as client:
        assert client.get("/healthz").json() == {"status": "ok", "models": []}
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 404
        put_bundle(settings, boosters, 1, plan_of())
        put_features(settings, plan_of(), {7: (9.5, 190)})
        put_release(settings, Arm(1))
        until(lambda: client.post("/predict/purchase", json=INSTANCE).status_code == 200)


def test_off_loopback_the_token_is_asked_for(project, monkeypatch):
    monkeypatch.setenv("HEADRACE_TOKEN", "a-token-of-enough-length")
    with run_endpoint(project, host="0.0.0.0") as client:
        assert client.post("/predict/purchase", json=INSTANCE).status_code == 401
        allowed = {"Authorization": "Bearer a-token-of-enough-length"}
        assert client.post("/predict/purchase", json=INSTANCE, headers=allowed).status_code == 200
        assert client.get("/models").status_code == 401


def test_unreadable_online_state_is_answered_503(client, project):
    with closing(sqlite3.connect(project.online.url.removeprefix("sqlite://"))) as database, database:
        for table, column in database.execute(
            "select tables.name, columns.name from sqlite_master tables, pragma_table_info(tables.name) columns"
            " where tables.name like 'entities%' and columns.name like 'v%'"
        ).fetchall():
            database.execute(f"update {table} set {column} = x'c1'")
    response = client.post("/predict/purchase", json=INSTANCE)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    assert "product_id=7 in view 'facts' is unreadable" in response.json()["error"]["message"]


def test_metrics_count_answers_and_predictions(client):
    client.post("/predict/purchase", json=INSTANCE)
    client.post("/predict/purchase", json={**INSTANCE, "product_id": 404})
    client.post("/predict/purchase", json={})
    text = client.get("/metrics").text
    assert 'headrace_predictions_total{model="purchase",version="1",arm="champion"} 2' in text
    assert (
        'headrace_missing_features_total{model="purchase",version="1",arm="champion",feature="facts__views"} 1'
        in text
    )
    assert 'headrace_predict_answers_total{status="200"} 2' in text
    assert 'headrace_predict_answers_total{status="422"} 1' in text
    assert "headrace_predict_seconds_count 3" in text


def test_without_room_in_the_spool_the_answer_is_503(project, monkeypatch):
    def full(self, *predictions):
        raise OSError(28, "No space left on device")

    with run_endpoint(project) as client:
        monkeypatch.setattr(Spool, "append", full)
        answer = client.post("/predict/purchase", json=INSTANCE)
        assert answer.status_code == 503
        assert "cannot be written" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["sqlite", "kafka", "unknown"])
def test_a_prediction_too_large_for_its_topic_is_refused(tmp_path, boosters, request, monkeypatch, kind):
    if kind == "kafka":
        monkeypatch.setenv("HEADRACE_LOG", request.getfixturevalue("empty_broker").url)
    settings = make_project(tmp_path / "text")
    plan = plan_of(request=(PlanField("event_type", "string"),))
    put_bundle(settings, boosters, 1, plan)
    put_features(settings, plan, {7: (9.5, 190)})
    put_release(settings, Arm(1))
    if kind != "unknown":  # without the topic its limit is unknown: the limit is then what every topic takes
        topics = log.open(settings.log.url)
        topics.create(TOPIC)
        topics.close()

    def ask(size, *others):
        instances = [{"user_id": 1, "product_id": 7, "event_type": "x" * length} for length in (size, *others)]
        return client.post("/predict/purchase", json={"instances": instances} if others else instances[0])

    accepted, refused = (2 << 20, MAX_BODY - 80) if kind == "sqlite" else (900_000, 1_048_400)
    with run_endpoint(settings) as client:
        assert ask(accepted).status_code == 200
        for answer, instance in ((ask(refused), 0), (ask(MAX_BODY - 80), 0), (ask(4, MAX_BODY - 400), 1)):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["instance"]) == (413, "too_large", instance)
            assert "retry-after" not in answer.headers
        assert ask(5).status_code == 200
        assert 'headrace_predict_answers_total{status="413"} 3' in client.get("/metrics").text
    assert [len(prediction.request["event_type"]) for prediction in ship_predictions(settings)] == [accepted, 5]
    assert find_oversized(settings.place("serving", "spool")) == []


def test_a_replica_imports_no_engine_that_it_does_not_need(project):
    program = (
        "import sys; from pathlib import Path; from headrace.config.settings import load_settings\n"
        "from headrace.serving.endpoint import Endpoint; from headrace.serving.models import Models\n"
        f"settings = load_settings(Path({str(project.root)!r}))\n"
        "Endpoint(Models(settings), settings.place('serving'), '127.0.0.1').close()\n"
        "print(*sorted({'feast', 'mlflow', 'pandas', 'pyiceberg', 'ray', 'sklearn', 'xgboost'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_replica_that_lacks_a_bundle_does_not_load_mlflow(project):
    """Another process asks MLflow for it, and the reason is told."""
    shutil.rmtree(registry.open(project).bundle_folder("purchase", 1))
    program = (
        "import sys; from pathlib import Path; from headrace.config.settings import load_settings\n"
        "from headrace.serving.models import Models\n"
        f"models = Models(load_settings(Path({str(project.root)!r})))\n"
        "print('mlflow' in sys.modules, models.failed['purchase'].why)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")
    assert "purchase" in done.stdout
    assert "version 1" in done.stdout


def test_the_page_on_serving_adds_a_token_without_a_restart(project, tmp_path):
    tokens = tmp_path / "apps"
    tokens.write_text("a-token-of-enough-length\n")
    with run_endpoint(project, host="0.0.0.0", token_files=[tokens]) as client:
        addresses = {
            "/run/secrets/headrace": str(tmp_path),
            "shop.example:8100": f"127.0.0.1:{client.base_url.port}",
        }
        reader = Reader(tmp_path, addresses=addresses)
        reader.follow(Path(__file__).parents[2] / "docs" / "guide" / "serving.md", "tokens")
        first, second = tokens.read_text().splitlines()
        assert first == "a-token-of-enough-length"
        for token in (first, second):
            assert client.get("/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_probes_need_no_token_and_metrics_only_by_choice(project, monkeypatch, tmp_path):
    monkeypatch.delenv("HEADRACE_TOKEN", raising=False)
    (tmp_path / "tokens").write_text("a-token-of-enough-length\n")
    for is_open in (False, True):
        access = {"token_files": [tmp_path / "tokens"], "open_metrics": is_open}
        with run_endpoint(project, host="0.0.0.0", **access) as client:
            for probe in ("/healthz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"):
                assert client.get(probe).status_code == 200, probe
            assert client.get("/metrics").status_code == (200 if is_open else 401)
            assert client.get("/v2/models/purchase/ready").status_code == 401
            assert client.post("/predict/purchase", json=INSTANCE).status_code == 401
