"""Predictions while the online store, on a server behind a proxy, does not answer."""

import threading
from time import monotonic
from urllib.parse import urlsplit

import pytest
from tests.serving.running import INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import make_project, plan_of, put_bundle, put_features, put_release
from tests.tcp_proxy import proxy_tcp
from tests.until import until

from headrace.kernel.errors import Unavailable
from headrace.runtime.up import up
from headrace.serving.release import Arm


@pytest.fixture(params=["postgres", "redis"])
def address(request):
    """The address of an empty store."""
    return request.getfixturevalue("empty_redis" if request.param == "redis" else "empty_database")


@pytest.fixture
def proxy(address):
    with proxy_tcp(urlsplit(address).port) as proxy:
        yield proxy


@pytest.fixture
def make(tmp_path, boosters, proxy, address):
    """Makes a project with a released model, whose store is behind the proxy."""

    def make(plan):
        behind = address.replace(f":{urlsplit(address).port}/", f":{proxy.port}/")
        settings = make_project(tmp_path / "project").with_values(online=behind)
        put_bundle(settings, boosters, 1, plan)
        put_features(settings, plan, {7: (9.5, 190)})
        put_release(settings, Arm(1))
        return settings

    return make


def ask(client):
    return client.post("/predict/purchase?explain=1", json=INSTANCE, timeout=60)


def ask_features(client):
    body = {"service": "purchase", "entities": [INSTANCE]}
    return client.post("/v1/features", json=body, timeout=60)


def test_while_the_store_is_away_the_answer_is_503_and_then_200_again(make, proxy):
    with run_endpoint(make(plan_of())) as client:
        assert ask(client).json()["features"] == {"facts__mean_price": 9.5, "facts__views": 190.0}
        assert ask_features(client).json()["rows"][0]["values"] == [9.5, 190]
        proxy.is_away = True
        for answer in (ask(client), ask_features(client)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert client.get("/healthz").status_code == 200
        proxy.is_away = False
        until(lambda: ask(client).status_code == 200)
        assert ask_features(client).json()["rows"][0]["values"] == [9.5, 190]


def test_a_store_that_does_not_answer_delays_no_other_request(make, proxy):
    with run_endpoint(make(plan_of())) as client:
        assert ask(client).status_code == 200
        proxy.is_frozen = True
        answers = []
        asks = [ask, ask_features] * 2
        threads = [threading.Thread(target=lambda ask=ask: answers.append(ask(client))) for ask in asks]
        for thread in threads:
            thread.start()
        began = monotonic()
        while any(thread.is_alive() for thread in threads):
            assert client.get("/healthz").status_code == 200
            assert monotonic() < began + 60  # the deadline is 2 s
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [503] * 4
        proxy.is_frozen = False
        until(lambda: ask(client).status_code == 200)


def test_a_model_may_predict_without_the_store(make, proxy, caplog):
    """Its features are missing then, by name, and its positions are not claimed."""
    plan = plan_of(missing={"facts__views": 190}, unavailable="missing")
    settings = make(plan)
    with run_endpoint(settings) as client:
        assert ask(client).json()["missing"] == []
        proxy.is_away = True
        for _ in range(3):
            body = ask(client).json()
            assert body["missing"] == ["facts__mean_price", "facts__views"]
            assert body["features"] == {"facts__mean_price": None, "facts__views": 190.0}
        (row,) = ask_features(client).json()["rows"]
        assert row == {
            "values": [None, None],
            "statuses": ["unavailable"] * 2,
            "event_times": [None, None],
            "positions": {},
        }
        proxy.is_away = False
        until(lambda: ask(client).json()["missing"] == [])
    predictions = ship_predictions(settings)
    assert [bool(prediction.positions) for prediction in predictions[:4]] == [True, False, False, False]
    assert sum("without the online store" in record.message for record in caplog.records) == 1


def test_a_replica_that_starts_without_the_store_predicts_when_it_is_back(make, proxy):
    settings = make(plan_of())
    proxy.is_away = True
    with run_endpoint(settings) as client:
        assert ask(client).status_code == 503
        proxy.is_away = False
        until(lambda: ask(client).status_code == 200)


def test_up_says_at_once_that_the_store_is_away(make, proxy):
    settings = make(plan_of())
    proxy.is_away = True
    with pytest.raises(Unavailable, match=r"the (PostgreSQL|Redis) server cannot be reached") as caught:
        up(settings)
    assert caught.value.where == settings.online.url
