"""Headrace's own protocol: which bodies it decodes, and how an invalid one is refused."""

import msgspec
import pytest

from headrace.features.plan import EntityKey, FeaturePlan, PlanField
from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError
from headrace.serving.protocols.counting import MAX_INSTANCES
from headrace.serving.protocols.native import decode
from headrace.serving.protocols.status import to_response_error
from headrace.serving.request_schema import RequestSchema


def plan_of(*request):
    return FeaturePlan("m", (EntityKey("user", "user_id", "int64"),), (), (), tuple(request))


PRICE = PlanField("price", "float64")
BRAND = PlanField("brand", "string")


def decode_instances(schema, body):
    return decode(schema, {"query_string": b""}, body).instances


def error_of(schema, body):
    """The HTTP error that a body is refused with."""
    with pytest.raises((HttpError, RequestError)) as caught:
        decode_instances(schema, body)
    return to_response_error(caught.value)


def test_a_body_is_one_object_or_several_instances():
    schema = RequestSchema([plan_of(PRICE)])
    assert decode_instances(schema, b'{"user_id": 1, "price": 3}') == [{"user_id": 1, "price": 3.0}]
    body = b'{"instances": [{"user_id": 1, "price": 3}, {"price": 4.5, "user_id": 2}]}'
    assert decode_instances(schema, body) == [{"user_id": 1, "price": 3.0}, {"user_id": 2, "price": 4.5}]
    assert schema.fields == {"user_id": "int64", "price": "float64"}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "not_json", None),
        (b"{", 400, "not_json", None),
        (b"[" * 100_000, 400, "not_json", None),
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
def test_an_invalid_body_is_refused_and_its_field_named(body, status, code, field):
    error = error_of(RequestSchema([plan_of(PRICE)]), body)
    assert (error.status, error.code, error.field) == (status, code, field)


def test_an_unknown_field_may_have_any_name():
    body = b'{"user_id": 1, "price": 3, "x - at `$.y": 3}'
    assert error_of(RequestSchema([plan_of(PRICE)]), body).status == 422


def test_too_many_instances_are_refused():
    body = msgspec.json.encode({"instances": [{"user_id": 1}] * (MAX_INSTANCES + 1)})
    assert error_of(RequestSchema([plan_of()]), body).field == "instances"


def test_all_arms_fields_are_required_and_a_shadows_are_optional():
    schema = RequestSchema([plan_of(), plan_of(PRICE)], [plan_of(BRAND)])
    assert decode_instances(schema, b'{"user_id": 1, "price": 3}') == [{"user_id": 1, "price": 3.0}]
    assert decode_instances(schema, b'{"user_id": 1, "price": 3, "brand": "b"}')[0]["brand"] == "b"
    assert error_of(schema, b'{"user_id": 1}').field == "price"


def test_the_text_instances_in_a_value_is_a_value():
    schema = RequestSchema([plan_of(BRAND)])
    body = b'{"user_id": 1, "brand": "\\"instances\\""}'
    assert decode_instances(schema, body) == [{"user_id": 1, "brand": '"instances"'}]


def test_a_timestamp_needs_an_offset_and_becomes_utc():
    schema = RequestSchema([plan_of(PlanField("when", "timestamp"))])
    instance = {"user_id": 1, "when": "2026-01-01T12:00:00+02:00"}
    (values,) = decode_instances(schema, msgspec.json.encode(instance))
    assert values["when"].isoformat() == "2026-01-01T10:00:00+00:00"
    for invalid in ("2026-01-01T12:00:00", "0001-01-01T00:00:00+02:00"):
        error = error_of(schema, msgspec.json.encode(instance | {"when": invalid}))
        assert (error.status, error.field) == (422, "when")


def test_of_several_instances_the_error_names_the_one():
    schema = RequestSchema([plan_of(PlanField("when", "timestamp"))])
    good, early = (
        {"user_id": 1, "when": when} for when in ("2026-01-01T12:00:00Z", "0001-01-01T00:00:00+02:00")
    )
    assert error_of(schema, msgspec.json.encode({"instances": [good, early]})).field == "instances[1].when"
