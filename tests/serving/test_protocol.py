"""What a request must be, and how each wrong one is told, by its field."""

import msgspec
import pytest

from headrace.features.plan import EntityKey, FeaturePlan, PlanField
from headrace.http.responses import HttpError
from headrace.serving.protocol import MOST_INSTANCES, Requests


def plan(*request):
    return FeaturePlan("m", (EntityKey("user", "user_id", "int64"),), (), (), tuple(request))


PRICE = PlanField("price", "float64")
BRAND = PlanField("brand", "string")


def test_one_object_or_several_instances():
    requests = Requests([plan(PRICE)])
    assert requests.read(b'{"user_id": 1, "price": 3}') == ([{"user_id": 1, "price": 3.0}], False)
    body = b'{"instances": [{"user_id": 1, "price": 3}, {"price": 4.5, "user_id": 2}]}'
    assert requests.read(body) == ([{"user_id": 1, "price": 3.0}, {"user_id": 2, "price": 4.5}], True)
    assert requests.fields == {"user_id": "int64", "price": "float64"}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "not_json", None),
        (b"{", 400, "not_json", None),
        (b"[" * 100_000, 422, "wrong_value", None),
        (b'{"user_id": 1, "price": 3, "\xff": 1}', 400, "not_json", None),
        (b"[]", 422, "wrong_value", None),
        (b'{"price": 3}', 422, "missing", "user_id"),
        (b'{"user_id": "1", "price": 3}', 422, "wrong_value", "user_id"),
        (b'{"user_id": null, "price": 3}', 422, "wrong_value", "user_id"),
        (b'{"user_id": 9223372036854775808, "price": 3}', 422, "wrong_value", "user_id"),
        (b'{"user_id": 1, "price": NaN}', 400, "not_json", None),
        (b'{"user_id": 1, "price": 3, "prise": 3}', 422, "extra", "prise"),
        (b'{"instances": []}', 422, "wrong_value", "instances"),
        (b'{"instances": [{"user_id": 1, "price": 3}, {"user_id": 1}]}', 422, "missing", "instances[1].price"),
        (b'{"instances": [{"user_id": 1, "price": "x"}]}', 422, "wrong_value", "instances[0].price"),
    ],
)
def test_a_wrong_request_is_told_by_its_field(body, status, code, field):
    with pytest.raises(HttpError) as caught:
        Requests([plan(PRICE)]).read(body)
    assert (caught.value.status, caught.value.code, caught.value.field) == (status, code, field)


def test_too_many_instances_are_refused():
    body = msgspec.json.encode({"instances": [{"user_id": 1}] * (MOST_INSTANCES + 1)})
    with pytest.raises(HttpError) as caught:
        Requests([plan()]).read(body)
    assert caught.value.field == "instances"


def test_all_that_the_arms_need_is_asked_for_and_what_a_shadow_needs_may_be_left_out():
    requests = Requests([plan(), plan(PRICE)], [plan(BRAND)])
    assert requests.read(b'{"user_id": 1, "price": 3}')[0] == [{"user_id": 1, "price": 3.0}]
    assert requests.read(b'{"user_id": 1, "price": 3, "brand": "b"}')[0][0]["brand"] == "b"
    with pytest.raises(HttpError) as caught:
        requests.read(b'{"user_id": 1}')
    assert caught.value.field == "price"


def test_text_that_looks_like_instances_is_a_value():
    requests = Requests([plan(BRAND)])
    assert requests.read(b'{"user_id": 1, "brand": "\\"instances\\""}') == (
        [{"user_id": 1, "brand": '"instances"'}],
        False,
    )


def test_a_timestamp_names_its_offset_and_becomes_utc():
    requests = Requests([plan(PlanField("when", "timestamp"))])
    asked = {"user_id": 1, "when": "2026-01-01T12:00:00+02:00"}
    (request,), _ = requests.read(msgspec.json.encode(asked))
    assert request["when"].isoformat() == "2026-01-01T10:00:00+00:00"
    for wrong in ("2026-01-01T12:00:00", "0001-01-01T00:00:00+02:00"):
        with pytest.raises(HttpError) as raised:
            requests.read(msgspec.json.encode(asked | {"when": wrong}))
        assert (raised.value.status, raised.value.field) == (422, "when")
