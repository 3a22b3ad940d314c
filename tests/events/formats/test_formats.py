"""The same events in every format: valid events are admitted, broken ones refused with the same code."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import fastavro
import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.kafka import Broker
from services.registry import Registry
from services.registry import registry as run_registry
from tests.servers import Serving

from headrace import Meta, Precision, Struct, event, log
from headrace.declare.event import Contract, contract_of
from headrace.events import formats
from headrace.events.contracts.shape import CODES, table_schema
from headrace.events.formats.refusals import UnknownSchema
from headrace.events.formats.schema_registry import SchemaRegistry
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.events.verdicts.judge import Judge
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.time import micros
from headrace.lake import Lake
from headrace.log import Batch, Log

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Place(Struct):
    city: str
    seen: datetime
    zip: int | None = None


@event(topic="orders", time="at", key="user", time_formats=["rfc3339"])
class Order(Struct):
    at: datetime
    user: int
    page: Literal["home", "shop"]
    price: Annotated[float, Meta(gt=0)]
    total: Annotated[Decimal, Precision(9, 2)]
    day: date
    token: UUID
    place: Place
    before: list[Place] = msgspec.field(default_factory=list)
    note: str | None = None


PLACE = {"city": "Köln", "seen": "2026-03-01T11:00:00Z", "zip": 1}
GOOD: dict[str, Any] = {
    "at": "2026-03-01T12:00:00Z",
    "user": 1,
    "page": "home",
    "price": 2.5,
    "total": "12.50",
    "day": "2026-03-01",
    "token": "a0a7a0a7-0000-4000-8000-000000000001",
    "place": PLACE,
    "before": [PLACE, {"city": "Rom", "seen": "2026-02-28T11:00:00Z"}],
}

_PLACE_SCHEMA = {
    "type": "record",
    "name": "Place",
    "fields": [
        {"name": "city", "type": "string"},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "zip", "type": ["null", "long"], "default": None},
    ],
}
ORDER_SCHEMA = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "user", "type": "int"},
        {"name": "page", "type": {"type": "enum", "name": "Page", "symbols": ["home", "shop", "attic"]}},
        {"name": "price", "type": "double"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "token", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "place", "type": _PLACE_SCHEMA},
        {"name": "before", "type": {"type": "array", "items": "Place"}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(Path(tmp_path_factory.mktemp("registry"))) as server:
        yield server


class LocalRegistry(SchemaRegistry):
    """A registry of given schemas, without a server."""

    def __init__(self, *schemas: Any) -> None:
        super().__init__("http://127.0.0.1:9")
        for id_, schema in enumerate(schemas):
            self._schemas[id_] = fastavro.parse_schema(schema)

    def _fetch(self, id: int) -> Any:
        raise UnknownSchema(f"schema {id} does not exist")


def register(registry: Registry, subject: str, schema: Any, **options: Any) -> int:
    """Register a schema, and return its id."""
    body = {"schema": json.dumps(schema), **options}
    answer = httpx.post(f"{registry.url}/subjects/{subject}/versions", json=body, timeout=30)
    answer.raise_for_status()
    return int(answer.json()["id"])


def order(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def contract_for(struct: type[Struct]) -> Contract:
    contract = contract_of(struct)
    assert contract is not None
    return contract


def batch(values: list[bytes]) -> Batch:
    n = len(values)
    arrived = np.full(n, micros(NOON + timedelta(days=1)))
    return Batch(np.zeros(n, np.int32), np.arange(n), arrived, values, [None] * n, [None] * n, {0: n})


def make_judge(contract: Contract, *schemas: Any) -> Judge:
    return Judge(contract, format=formats.open(contract, LocalRegistry(*schemas)))


def judge_one(judge: Judge, raw: bytes) -> dict[str, Any]:
    """Judge one event, and return its row."""
    verdicts = judge.judge(batch([raw]))
    assert verdicts.rows.schema == table_schema(judge.contract)
    (row,) = verdicts.rows.to_pylist()
    return row


def plain(value: Any) -> bytes:
    return json.dumps(value).encode()


def connect(value: Any) -> bytes:
    return json.dumps({"schema": None, "payload": value}).encode()


def avro(value: Any, schema: Any = ORDER_SCHEMA, id: int = 0) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), value)
    return b"\0" + id.to_bytes(4, "big") + body.getvalue()


def native(value: dict[str, Any]) -> dict[str, Any]:
    """The order as the values that an Avro producer encodes."""

    def native_place(place: dict[str, Any]) -> dict[str, Any]:
        return {**place, "seen": datetime.fromisoformat(place["seen"])}

    return {
        **value,
        "at": datetime.fromisoformat(value["at"]),
        "total": Decimal(value["total"]),
        "day": date.fromisoformat(value["day"]),
        "place": native_place(value["place"]),
        "before": [native_place(place) for place in value["before"]],
    }


def avro_order(value: dict[str, Any]) -> bytes:
    return avro(native(value))


ENCODE = {"json": plain, "connect": connect, "avro": avro_order}
FORMATS = pytest.mark.parametrize("format", list(ENCODE))


@FORMATS
def test_a_valid_event_is_the_same_row_in_every_format(format: str) -> None:
    row = judge_one(
        make_judge(attrs.evolve(contract_for(Order), format=format), ORDER_SCHEMA), ENCODE[format](GOOD)
    )
    assert row["_valid"], row["_reason"]
    seen = {"city": "Köln", "seen": NOON - timedelta(hours=1), "zip": 1}
    assert {name: row[name] for name in Order.__struct_fields__} == {
        "at": NOON,
        "user": 1,
        "page": "home",
        "price": 2.5,
        "total": Decimal("12.50"),
        "day": date(2026, 3, 1),
        "token": GOOD["token"],
        "place": seen,
        "note": None,
        "before": [seen, {"city": "Rom", "seen": NOON - timedelta(days=1, hours=1), "zip": None}],
    }
    assert row["_extra"] is None


@FORMATS
@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"page": "attic"}, "unknown_value", "page"),
        ({"price": -1.0}, "out_of_range", "price"),
        ({"price": 0.0}, "out_of_range", "price"),
        ({"total": "1.505"}, "out_of_range", "total"),
        ({"total": "12345678.00"}, "out_of_range", "total"),
        ({"at": "2026-03-03T12:00:00+00:00"}, "future", "at"),
    ],
)
def test_values_against_the_contract_are_refused_in_every_format(
    format: str, fields: dict[str, Any], code: str, field: str
) -> None:
    raw = ENCODE[format](order(**fields))
    row = judge_one(make_judge(attrs.evolve(contract_for(Order), format=format), ORDER_SCHEMA), raw)
    assert (row["_code"], row["_field"], row["_raw"]) == (code, field, raw)


@pytest.mark.parametrize("format", ["json", "connect"])
@pytest.mark.parametrize(
    ("fields", "code", "field", "path"),
    [
        ({"user": "1"}, "wrong_type", "user", ""),
        ({"user": None}, "wrong_type", "user", ""),
        ({"user": 2**63}, "out_of_range", "user", ""),
        ({"user": 10**400}, "out_of_range", "user", ""),
        ({"at": "2026-03-01T12:00:00"}, "naive_time", "at", ""),
        ({"at": "soon"}, "bad_time", "at", ""),
        ({"at": None}, "wrong_type", "at", ""),
        ({"at": True}, "wrong_type", "at", ""),
        ({"at": 1772366400}, "wrong_type", "at", ""),
        ({"total": "NaN"}, "out_of_range", "total", ""),
        ({"total": "1e999999999"}, "out_of_range", "total", ""),
        ({"total": "1e-999999999"}, "out_of_range", "total", ""),  # Arrow crashes the process on it
        ({"day": "2026-02-30"}, "bad_time", "day", ""),
        ({"token": "x"}, "wrong_type", "token", ""),
        ({"place": {"city": "Köln"}}, "missing", "place", "seen"),
        ({"place": {**PLACE, "zip": "x"}}, "wrong_type", "place", ".place.zip"),
        ({"place": {**PLACE, "zip": 2**63}}, "out_of_range", "place", ".place.zip"),
        ({"place": {**PLACE, "seen": "2026-03-01T12:00:00"}}, "naive_time", "place", ".place.seen"),
        ({"before": [PLACE, {**PLACE, "seen": "x"}]}, "bad_time", "before", ".before[].seen"),
        ({"before": [PLACE, {**PLACE, "city": 5}]}, "wrong_type", "before", "[1].city"),
        ({"before": None}, "wrong_type", "before", ""),
    ],
)
def test_values_that_only_json_can_hold_are_refused(
    format: str, fields: dict[str, Any], code: str, field: str, path: str
) -> None:
    raw = ENCODE[format](order(**fields))
    row = judge_one(make_judge(attrs.evolve(contract_for(Order), format=format)), raw)
    assert (row["_code"], row["_field"]) == (code, field), row["_reason"]
    assert path in row["_reason"]


@pytest.mark.parametrize(
    ("total", "stored"),
    [("1E+2", "100.00"), ("9999999.99000", "9999999.99"), ("0e999999999", "0.00"), ("0e-999999999", "0.00")],
)
def test_a_decimal_that_fits_is_stored_however_it_is_written(total: str, stored: str) -> None:
    assert judge_one(make_judge(contract_for(Order)), plain(order(total=total)))["total"] == Decimal(stored)


HOSTILE = [
    b"",
    b"\0",
    b"\0" * 400,
    b"[]",
    b"null",
    b'"x"',
    b'{"at":' + b"[" * 10_000_000,
    b'{"payload":' * 1_000_000,
    b'{"x":\xff}',
    b'{"payload": {"at": "\xff"}}',
    b'{"schema": {"type": "struct"}, "payload": {}}',
    b"\0\0\0\0\0" + b"\xff" * 100,
    b"\0\xff\xff\xff\xff",
    b"\1\0\0\0\0",
]


@FORMATS
@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused(format: str, raw: bytes) -> None:
    row = judge_one(make_judge(attrs.evolve(contract_for(Order), format=format), ORDER_SCHEMA), raw)
    assert not row["_valid"]
    assert row["_code"] in CODES
    assert row["_reason"]


@FORMATS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_get_one_verdict(format: str, data: st.DataObject) -> None:
    judge = make_judge(attrs.evolve(contract_for(Order), format=format, coerce=True), ORDER_SCHEMA)
    raw = bytearray(ENCODE[format](GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(5, len(raw) - 1))] = data.draw(st.integers(0, 255))
    head = b"\0\0\0\0\0" if format == "avro" else b""
    values = [bytes(raw), head + data.draw(st.binary(max_size=60)), ENCODE[format](GOOD)]
    verdicts = judge.judge(batch(values))
    assert sorted(verdicts.rows["_log_offset"].to_pylist()) == [0, 1, 2]
    assert verdicts.good >= 1
    assert set(verdicts.refused) <= set(CODES)


def test_the_schema_of_an_envelope_types_its_numbers() -> None:
    logical = "org.apache.kafka.connect.data."
    place = [
        {"field": "city", "type": "string"},
        {"field": "seen", "type": "int64", "name": logical + "Timestamp"},
    ]
    schema = {
        "type": "struct",
        "fields": [
            {"field": "at", "type": "int64", "name": logical + "Timestamp"},
            {"field": "day", "type": "int32", "name": logical + "Date"},
            {"field": "total", "type": "bytes", "name": logical + "Decimal", "parameters": {"scale": "2"}},
            {"field": "place", "type": "struct", "fields": place},
            {"field": "before", "type": "array", "items": {"type": "struct", "fields": place}},
        ],
    }
    seen = {"city": "Köln", "seen": 1772362800000}
    payload = order(at=1772366400000, day=20513, total="BOI=", place=seen, before=[seen])
    judge = make_judge(attrs.evolve(contract_for(Order), format="connect"))
    row = judge_one(judge, plain({"schema": schema, "payload": payload}))
    assert row["_valid"], row["_reason"]
    assert (row["at"], row["day"], row["total"]) == (NOON, date(2026, 3, 1), Decimal("12.50"))
    assert row["place"]["seen"] == row["before"][0]["seen"] == NOON - timedelta(hours=1)
    row = judge_one(judge, plain({"schema": schema, "payload": {**payload, "at": 10**30}}))
    assert (row["_code"], row["_field"]) == ("wrong_type", "at")
    assert judge_one(judge, plain(GOOD))["_reason"].startswith("it is not an envelope")


def test_an_avro_body_that_is_cut_off_or_too_long_is_refused() -> None:
    judge = make_judge(attrs.evolve(contract_for(Order), format="avro"), ORDER_SCHEMA)
    raw = avro_order(GOOD)
    for broken in (raw[:-1], raw[:40], raw[:5], raw + b"\0"):
        assert judge_one(judge, broken)["_code"] == "not_avro"


def test_avro_fields_are_matched_by_name(registry: Registry) -> None:
    contract = attrs.evolve(contract_for(Order), format="avro")
    place = register(registry, "place", _PLACE_SCHEMA)
    assert place > 0
    old = {
        **ORDER_SCHEMA,
        "fields": [
            *[field for field in ORDER_SCHEMA["fields"] if field["name"] not in ("before", "note", "place")],
            {"name": "place", "type": "Place"},
            {"name": "colour", "type": "string"},
        ],
    }
    first = register(registry, "orders-value", ORDER_SCHEMA)
    second = register(
        registry, "old-orders", old, references=[{"name": "Place", "subject": "place", "version": 1}]
    )
    client = SchemaRegistry(registry.url)
    assert set(client.subjects()) >= {"place", "orders-value", "old-orders"}
    judge = Judge(contract, format=formats.open(contract, client))
    assert judge_one(judge, avro(native(GOOD), id=first))["_valid"]
    resolved = {
        **old,
        "fields": [*old["fields"][:-2], {"name": "place", "type": _PLACE_SCHEMA}, old["fields"][-1]],
    }
    row = judge_one(judge, avro({**native(GOOD), "colour": "red"}, resolved, second))
    assert row["_valid"], row["_reason"]
    assert (row["before"], row["note"], row["place"]["city"]) == ([], None, "Köln")
    assert row["_extra"] == '{"colour":"red"}'
    strict = attrs.evolve(contract, extra="forbid")
    judge = Judge(strict, format=formats.open(strict, SchemaRegistry(registry.url)))
    row = judge_one(judge, avro({**native(GOOD), "colour": "red"}, resolved, second))
    assert (row["_code"], row["_field"]) == ("extra", "colour")
    row = judge_one(judge, avro(native(GOOD), id=999_999))
    assert (row["_code"], row["_field"]) == ("unknown_schema", None)


class PasswordProxy(Serving):
    """A proxy of a registry that requires a user and password."""

    def __init__(self, url: str, user: str, password: str) -> None:
        expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization") == expected
                answer = httpx.get(url + self.path, timeout=30) if allowed else httpx.Response(401, json={})
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


def test_avro_is_ingested_from_a_broker_by_a_registry_with_a_password(
    registry: Registry, broker: Broker, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = attrs.evolve(contract_for(Order), topic="orders-by-avro", format="avro")
    id_ = register(registry, "orders-by-avro-value", ORDER_SCHEMA)
    events = log.open(broker.url)
    events.create(contract.topic)
    events.append(contract.topic, [avro(native(GOOD), id=id_), avro(native(GOOD), id=id_)[:-1]])
    proxy = PasswordProxy(registry.url, "me", "t0psecret")
    monkeypatch.setenv("HEADRACE_SCHEMA_REGISTRY_USER", "me")
    try:
        for password in ("t0psecres", "t0psecret"):
            monkeypatch.setenv("HEADRACE_SCHEMA_REGISTRY_PASSWORD", password)
            client = SchemaRegistry(f"http://127.0.0.1:{proxy.port}")
            ingest = Ingest(contract, events, lake, schema_registry=client)
            if password == "t0psecres":
                with pytest.raises(Unavailable, match="401") as error:
                    ingest.run(until_end=True, stop=threading.Event())
                assert "t0psec" not in str(error.value)
            else:
                ingest.run(until_end=True, stop=threading.Event())
    finally:
        proxy.close()
        events.close()
    rows = lake.table(contract.table).scan().sort("_log_offset").select("_valid", "_code", "user").collect()
    assert rows.rows() == [(True, None, 1), (False, "not_avro", None)]


def test_no_event_is_judged_while_the_registry_is_unreachable() -> None:
    contract = attrs.evolve(contract_for(Order), format="avro")
    judge = Judge(contract, format=formats.open(contract, SchemaRegistry("http://127.0.0.1:9")))
    with pytest.raises(Unavailable, match="does not answer"):
        judge.judge(batch([avro_order(GOOD)]))


class RestartingRegistry(LocalRegistry):
    """A registry that answers only after some requests, as one that is being restarted."""

    requests = 0

    def schema(self, id: int) -> Any:
        self.requests += 1
        if self.requests <= 3:
            raise Unavailable("the schema registry does not answer")
        return super().schema(id)


def test_ingest_waits_for_the_registry(events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.RETRY", 0.06)
    contract = attrs.evolve(contract_for(Order), format="avro")
    events_log.create("orders")
    events_log.append("orders", [avro_order(GOOD)] * 2)
    stop = threading.Event()
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        stop.set()

    registry = RestartingRegistry(ORDER_SCHEMA)
    Ingest(contract, events_log, lake, schema_registry=registry).run(
        until_end=False, stop=stop, hooks=IngestHooks(report)
    )
    assert registry.requests > 3
    assert (reports[0].events, reports[0].good) == (2, 2)
    events_log.append("orders", [avro_order(GOOD)])
    ingest = Ingest(contract, events_log, lake, schema_registry=SchemaRegistry("http://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="does not answer"):
        ingest.run(until_end=True, stop=threading.Event())
    assert lake.table("orders").scan().collect().height == 2


def test_the_address_of_a_registry_holds_no_secrets() -> None:
    with pytest.raises(ProjectError, match="names no schema registry"):
        formats.open(attrs.evolve(contract_for(Order), format="avro"))
    with pytest.raises(ProjectError) as error:
        SchemaRegistry("https://me:secret@registry.example")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("format", ["json", "connect"])
@pytest.mark.parametrize("name", ["note", "beside"])
@pytest.mark.parametrize("half", [r"\ud800", r"\uDC00", r"\ud800\u0041", r"\\\ud83d", r"\ud83d\ude00\ude00"])
def test_half_of_a_surrogate_pair_is_reported(format: str, name: str, half: str) -> None:
    raw = ENCODE[format](order(**{name: "HERE"})).replace(b"HERE", half.encode())
    row = judge_one(make_judge(attrs.evolve(contract_for(Order), format=format)), raw)
    assert row["_code"] == "not_json"
    assert re.match(r"\\u[dD]\w{3} is half of a character", row["_reason"]), row["_reason"]
    whole = raw.replace(half.encode(), rb"\ud83d\ude00 \\ud800")
    assert judge_one(make_judge(attrs.evolve(contract_for(Order), format=format)), whole)["_valid"]
    assert (
        judge_one(make_judge(attrs.evolve(contract_for(Order), format=format)), whole[:-1])["_reason"]
        == "Input data was truncated"
    )
