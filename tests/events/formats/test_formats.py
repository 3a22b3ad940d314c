"""The same events on every format: what is right is taken, what is broken is refused for its reason."""

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
from services.registry import registry as started_registry
from tests.servers import Serving

from headrace import Meta, Precision, Struct, event, log
from headrace.declare.event import Contract, contract_of
from headrace.events import formats
from headrace.events.contracts.shape import CODES, table_schema
from headrace.events.formats.refusals import UnknownSchema
from headrace.events.formats.schema_registry import SchemaRegistry
from headrace.events.ingest.ingest import Ingest, Progress
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
    "at": "2026-03-01T12:00:00Z", "user": 1, "page": "home", "price": 2.5, "total": "12.50",
    "day": "2026-03-01", "token": "a0a7a0a7-0000-4000-8000-000000000001", "place": PLACE,
    "before": [PLACE, {"city": "Rom", "seen": "2026-02-28T11:00:00Z"}],
}  # fmt: skip

_PLACE_SCHEMA = {
    "type": "record", "name": "Place", "fields": [
        {"name": "city", "type": "string"},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "zip", "type": ["null", "long"], "default": None},
    ],
}  # fmt: skip
ORDER_SCHEMA = {
    "type": "record", "name": "Order", "fields": [
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
}  # fmt: skip


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with started_registry(Path(tmp_path_factory.mktemp("registry"))) as running:
        yield running


class Known(SchemaRegistry):
    """Schemas that need no server."""

    def __init__(self, *schemas: Any) -> None:
        super().__init__("http://127.0.0.1:9")
        for at, one in enumerate(schemas):
            self._schemas[at] = fastavro.parse_schema(one)

    def _fetch(self, id: int) -> Any:
        raise UnknownSchema(f"there is no {id}")


def register(registry: Registry, subject: str, schema: Any, **more: Any) -> int:
    body = {"schema": json.dumps(schema), **more}
    answer = httpx.post(f"{registry.url}/subjects/{subject}/versions", json=body, timeout=30)
    answer.raise_for_status()
    return int(answer.json()["id"])


def order(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def of(declared: type[Struct]) -> Contract:
    found = contract_of(declared)
    assert found is not None
    return found


def batch(values: list[bytes]) -> Batch:
    n = len(values)
    arrived = np.full(n, micros(NOON + timedelta(days=1)))
    return Batch(np.zeros(n, np.int32), np.arange(n), arrived, values, [None] * n, [None] * n, {0: n})


def judge_of(contract: Contract, *schemas: Any) -> Judge:
    return Judge(contract, format=formats.open(contract, Known(*schemas)))


def row_of(judge: Judge, raw: bytes) -> dict[str, Any]:
    made = judge.judge(batch([raw]))
    assert made.rows.schema == table_schema(judge.contract)
    (row,) = made.rows.to_pylist()
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
    """The order as a producer of Avro holds it."""

    def place(one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "seen": datetime.fromisoformat(one["seen"])}

    return {
        **value, "at": datetime.fromisoformat(value["at"]), "total": Decimal(value["total"]),
        "day": date.fromisoformat(value["day"]), "place": place(value["place"]),
        "before": [place(one) for one in value["before"]],
    }  # fmt: skip


def avro_order(value: dict[str, Any]) -> bytes:
    return avro(native(value))


ENCODE = {"json": plain, "connect": connect, "avro": avro_order}
FORMATS = pytest.mark.parametrize("format", list(ENCODE))


@FORMATS
def test_a_right_event_is_the_same_row_on_every_format(format: str) -> None:
    row = row_of(judge_of(attrs.evolve(of(Order), format=format), ORDER_SCHEMA), ENCODE[format](GOOD))
    assert row["_valid"], row["_reason"]
    seen = {"city": "Köln", "seen": NOON - timedelta(hours=1), "zip": 1}
    assert {name: row[name] for name in Order.__struct_fields__} == {
        "at": NOON, "user": 1, "page": "home", "price": 2.5, "total": Decimal("12.50"),
        "day": date(2026, 3, 1), "token": GOOD["token"], "place": seen, "note": None,
        "before": [seen, {"city": "Rom", "seen": NOON - timedelta(days=1, hours=1), "zip": None}],
    }  # fmt: skip
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
def test_values_that_the_contract_refuses(format: str, fields: dict[str, Any], code: str, field: str) -> None:
    raw = ENCODE[format](order(**fields))
    row = row_of(judge_of(attrs.evolve(of(Order), format=format), ORDER_SCHEMA), raw)
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
)  # fmt: skip
def test_what_only_json_can_break(
    format: str, fields: dict[str, Any], code: str, field: str, path: str
) -> None:
    raw = ENCODE[format](order(**fields))
    row = row_of(judge_of(attrs.evolve(of(Order), format=format)), raw)
    assert (row["_code"], row["_field"]) == (code, field), row["_reason"]
    assert path in row["_reason"]


HOSTILE = [
    b"", b"\0", b"\0" * 400, b"[]", b"null", b'"x"', b'{"at":' + b"[" * 10_000_000,
    b'{"payload":' * 1_000_000, b'{"x":\xff}', b'{"payload": {"at": "\xff"}}',
    b'{"schema": {"type": "struct"}, "payload": {}}', b"\0\0\0\0\0" + b"\xff" * 100,
    b"\0\xff\xff\xff\xff", b"\1\0\0\0\0",
]  # fmt: skip


@FORMATS
@pytest.mark.parametrize("raw", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bytes_are_refused(format: str, raw: bytes) -> None:
    row = row_of(judge_of(attrs.evolve(of(Order), format=format), ORDER_SCHEMA), raw)
    assert not row["_valid"]
    assert row["_code"] in CODES
    assert row["_reason"]


@FORMATS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_one_verdict(format: str, data: st.DataObject) -> None:
    judge = judge_of(attrs.evolve(of(Order), format=format, coerce=True), ORDER_SCHEMA)
    raw = bytearray(ENCODE[format](GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(5, len(raw) - 1))] = data.draw(st.integers(0, 255))
    head = b"\0\0\0\0\0" if format == "avro" else b""
    values = [bytes(raw), head + data.draw(st.binary(max_size=60)), ENCODE[format](GOOD)]
    made = judge.judge(batch(values))
    assert sorted(made.rows["_log_offset"].to_pylist()) == [0, 1, 2]
    assert made.good >= 1
    assert set(made.refused) <= set(CODES)


def test_an_envelopes_schema_says_what_its_numbers_mean() -> None:
    logical = "org.apache.kafka.connect.data."
    place = [
        {"field": "city", "type": "string"},
        {"field": "seen", "type": "int64", "name": logical + "Timestamp"},
    ]
    schema = {
        "type": "struct", "fields": [
            {"field": "at", "type": "int64", "name": logical + "Timestamp"},
            {"field": "day", "type": "int32", "name": logical + "Date"},
            {"field": "total", "type": "bytes", "name": logical + "Decimal", "parameters": {"scale": "2"}},
            {"field": "place", "type": "struct", "fields": place},
            {"field": "before", "type": "array", "items": {"type": "struct", "fields": place}},
        ],
    }  # fmt: skip
    seen = {"city": "Köln", "seen": 1772362800000}
    payload = order(at=1772366400000, day=20513, total="BOI=", place=seen, before=[seen])
    judge = judge_of(attrs.evolve(of(Order), format="connect"))
    row = row_of(judge, plain({"schema": schema, "payload": payload}))
    assert row["_valid"], row["_reason"]
    assert (row["at"], row["day"], row["total"]) == (NOON, date(2026, 3, 1), Decimal("12.50"))
    assert row["place"]["seen"] == row["before"][0]["seen"] == NOON - timedelta(hours=1)
    wrong = row_of(judge, plain({"schema": schema, "payload": {**payload, "at": 10**30}}))
    assert (wrong["_code"], wrong["_field"]) == ("wrong_type", "at")
    assert row_of(judge, plain(GOOD))["_reason"].startswith("it is not an envelope")


def test_a_body_that_is_cut_off_or_too_long_is_refused() -> None:
    judge = judge_of(attrs.evolve(of(Order), format="avro"), ORDER_SCHEMA)
    raw = avro_order(GOOD)
    for broken in (raw[:-1], raw[:40], raw[:5], raw + b"\0"):
        assert row_of(judge, broken)["_code"] == "not_avro"


def test_schemas_of_writers_are_resolved_by_name(registry: Registry) -> None:
    contract = attrs.evolve(of(Order), format="avro")
    place = register(registry, "place", _PLACE_SCHEMA)
    assert place > 0
    old = {**ORDER_SCHEMA, "fields": [
        *[one for one in ORDER_SCHEMA["fields"] if one["name"] not in ("before", "note", "place")],
        {"name": "place", "type": "Place"}, {"name": "colour", "type": "string"},
    ]}  # fmt: skip
    first = register(registry, "orders-value", ORDER_SCHEMA)
    second = register(
        registry, "old-orders", old, references=[{"name": "Place", "subject": "place", "version": 1}]
    )
    there = SchemaRegistry(registry.url)
    assert set(there.subjects()) >= {"place", "orders-value", "old-orders"}
    judge = Judge(contract, format=formats.open(contract, there))
    assert row_of(judge, avro(native(GOOD), id=first))["_valid"]
    whole = {
        **old,
        "fields": [*old["fields"][:-2], {"name": "place", "type": _PLACE_SCHEMA}, old["fields"][-1]],
    }
    row = row_of(judge, avro({**native(GOOD), "colour": "red"}, whole, second))
    assert row["_valid"], row["_reason"]
    assert (row["before"], row["note"], row["place"]["city"]) == ([], None, "Köln")
    assert row["_extra"] == '{"colour":"red"}'
    refusing = attrs.evolve(contract, extra="forbid")
    judge = Judge(refusing, format=formats.open(refusing, SchemaRegistry(registry.url)))
    row = row_of(judge, avro({**native(GOOD), "colour": "red"}, whole, second))
    assert (row["_code"], row["_field"]) == ("extra", "colour")
    row = row_of(judge, avro(native(GOOD), id=999_999))
    assert (row["_code"], row["_field"]) == ("unknown_schema", None)


class Guard(Serving):
    """A door before a registry that asks for a user and password."""

    def __init__(self, url: str, user: str, password: str) -> None:
        wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = self.headers.get("Authorization") == wanted
                answer = httpx.get(url + self.path, timeout=30) if allowed else httpx.Response(401, json={})
                self.send_response(answer.status_code)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


def test_avro_from_a_broker_by_a_registry_with_a_password(
    registry: Registry, broker: Broker, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = attrs.evolve(of(Order), topic="orders-by-avro", format="avro")
    id_ = register(registry, "orders-by-avro-value", ORDER_SCHEMA)
    events = log.open(broker.url)
    events.create(contract.topic)
    events.append(contract.topic, [avro(native(GOOD), id=id_), avro(native(GOOD), id=id_)[:-1]])
    guard = Guard(registry.url, "me", "t0psecret")
    monkeypatch.setenv("HEADRACE_SCHEMA_REGISTRY_USER", "me")
    try:
        for password in ("t0psecres", "t0psecret"):
            monkeypatch.setenv("HEADRACE_SCHEMA_REGISTRY_PASSWORD", password)
            there = SchemaRegistry(f"http://127.0.0.1:{guard.port}")
            ingest = Ingest(contract, events, lake, schema_registry=there)
            if password == "t0psecres":
                with pytest.raises(Unavailable, match="401") as refused:
                    ingest.run(until_end=True, stop=threading.Event())
                assert "t0psec" not in str(refused.value)
            else:
                ingest.run(until_end=True, stop=threading.Event())
    finally:
        guard.close()
        events.close()
    rows = lake.table(contract.table).scan().sort("_log_offset").select("_valid", "_code", "user").collect()
    assert rows.rows() == [(True, None, 1), (False, "not_avro", None)]


def test_a_registry_that_is_away_decides_nothing() -> None:
    contract = attrs.evolve(of(Order), format="avro")
    judge = Judge(contract, format=formats.open(contract, SchemaRegistry("http://127.0.0.1:9")))
    with pytest.raises(Unavailable, match="does not answer"):
        judge.judge(batch([avro_order(GOOD)]))


class Away(Known):
    """Answers only after a while, as a registry that is being started again."""

    missed = 0

    def schema(self, id: int) -> Any:
        self.missed += 1
        if self.missed <= 3:
            raise Unavailable("the schema registry does not answer")
        return super().schema(id)


def test_ingest_waits_for_the_registry(events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.events.ingest.ingest.RETRY", 0.06)
    contract = attrs.evolve(of(Order), format="avro")
    events_log.create("orders")
    events_log.append("orders", [avro_order(GOOD)] * 2)
    stop = threading.Event()
    told: list[Progress] = []

    def tell(one: Progress) -> None:
        told.append(one)
        stop.set()

    registry = Away(ORDER_SCHEMA)
    Ingest(contract, events_log, lake, schema_registry=registry).run(until_end=False, stop=stop, tell=tell)
    assert registry.missed > 3
    assert (told[0].events, told[0].good) == (2, 2)
    events_log.append("orders", [avro_order(GOOD)])
    late = Ingest(contract, events_log, lake, schema_registry=SchemaRegistry("http://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="does not answer"):
        late.run(until_end=True, stop=threading.Event())
    assert lake.table("orders").scan().collect().height == 2


def test_a_registry_must_be_named_without_secrets() -> None:
    with pytest.raises(ProjectError, match="names no schema registry"):
        formats.open(attrs.evolve(of(Order), format="avro"))
    with pytest.raises(ProjectError) as error:
        SchemaRegistry("https://me:secret@registry.example")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("format", ["json", "connect"])
@pytest.mark.parametrize("name", ["note", "beside"])
@pytest.mark.parametrize("half", [r"\ud800", r"\uDC00", r"\ud800\u0041", r"\\\ud83d", r"\ud83d\ude00\ude00"])
def test_half_a_character_is_named(format: str, name: str, half: str) -> None:
    raw = ENCODE[format](order(**{name: "HERE"})).replace(b"HERE", half.encode())
    row = row_of(judge_of(attrs.evolve(of(Order), format=format)), raw)
    assert row["_code"] == "not_json"
    assert re.match(r"\\u[dD]\w{3} is half of a character", row["_reason"]), row["_reason"]
    whole = raw.replace(half.encode(), rb"\ud83d\ude00 \\ud800")
    assert row_of(judge_of(attrs.evolve(of(Order), format=format)), whole)["_valid"]
    assert (
        row_of(judge_of(attrs.evolve(of(Order), format=format)), whole[:-1])["_reason"]
        == "Input data was truncated"
    )
