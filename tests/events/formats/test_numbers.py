"""A number keeps every digit it was written with, in every format."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace import Struct, changes, event
from headrace.declare.event import Contract, contract_of
from headrace.events import formats
from headrace.events.formats import numbers
from headrace.events.verdicts.judge import Judge
from headrace.events.verdicts.keys import key_reader
from headrace.kernel.time import micros
from headrace.log import Batch

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG = "12345678901234567890.123456789012345678"


class SaleV1(Struct):
    at: datetime
    old_total: Decimal
    open: dict[str, Any]
    any: Any
    listed: list[Any]
    optional: int | None = None


def from_v1(sale: SaleV1) -> Sale:
    return Sale(sale.at, sale.old_total, sale.open, sale.any, sale.listed)


@event(
    topic="sales",
    time="at",
    key="total",
    coerce=True,
    time_formats=["rfc3339", "epoch_ms"],
    version=2,
    upcasters={SaleV1: from_v1},
)
class Sale(Struct):
    at: datetime
    total: Decimal
    open: dict[str, Any]
    any: Any
    listed: list[Any]
    either: Decimal | list[int] = Decimal(0)
    amounts: dict[str, Decimal] = msgspec.field(default_factory=dict)
    optional: int | None = None


@changes(topic="shop.public.sales", key=["id"])
class SaleRow(Struct):
    id: int
    total: Decimal
    open: dict[str, Any]
    any: Any
    listed: list[Any]
    note: str | None = None


def contract_for(struct: type[Struct]) -> Contract:
    contract = contract_of(struct)
    assert contract is not None
    return contract


def judge_one(contract: Contract, raw: bytes) -> dict[str, Any]:
    """Judge one event, and return its row."""
    batch = Batch(np.zeros(1, np.int32), np.arange(1), np.full(1, micros(NOON)), [raw], [None], [None], {0: 1})
    (row,) = Judge(contract).judge(batch).rows.to_pylist()
    return row


def sale(number: str, *more: str, total: str = "total", at: str = '"2026-03-01T12:00:00Z"') -> str:
    fields = [
        f'"at": {at}',
        f'"{total}": {number}',
        f'"open": {{"x": [{number}]}}',
        f'"any": {number}',
        f'"listed": [{number}]',
        *more,
    ]
    return "{" + ", ".join(fields) + "}"


def current_sale(number: str) -> str:
    return sale(number, f'"either": {number}', f'"amounts": {{"x": {number}}}', f'"beside": {{"y": {number}}}')


def plain(number: str) -> tuple[Contract, str]:
    return contract_for(Sale), current_sale(number)


def plain_with_an_empty_text(number: str) -> tuple[Contract, str]:
    return contract_for(Sale), current_sale(number)[:-1] + ', "optional": ""}'


def plain_of_an_older_version(number: str) -> tuple[Contract, str]:
    return contract_for(Sale), sale(number, f'"beside": {{"y": {number}}}', total="old_total")


def connect_without_a_schema(number: str) -> tuple[Contract, str]:
    contract = attrs.evolve(contract_for(Sale), format="connect")
    return contract, '{"schema": null, "payload": ' + plain_with_an_empty_text(number)[1] + "}"


def connect_with_logical_types(number: str) -> tuple[Contract, str]:
    timestamp = {"field": "at", "type": "int64", "name": "org.apache.kafka.connect.data.Timestamp"}
    schema = json.dumps({"type": "struct", "fields": [timestamp]})
    payload = sale(number, f'"beside": {{"y": {number}}}', '"optional": ""', at="1772366400000")
    return attrs.evolve(contract_for(Sale), format="connect"), f'{{"schema": {schema}, "payload": {payload}}}'


SOURCE = '"source": {"lsn": 7, "ts_ms": 1772366400000}'


def debezium(number: str, note: str = "n") -> tuple[Contract, str]:
    row = sale(number, f'"id": 1, "note": "{note}", "beside": {{"y": {number}}}')
    return contract_for(SaleRow), f'{{"payload": {{"op": "u", "after": {row}, {SOURCE}}}}}'


def debezium_with_an_unavailable_value(number: str) -> tuple[Contract, str]:
    return debezium(number, "__debezium_unavailable_value")


def debezium_with_json_as_text(number: str) -> tuple[Contract, str]:
    quoted = json.dumps(f'{{"x": [{number}]}}')
    contract, raw = debezium(number)
    return contract, raw.replace(f'{{"x": [{number}]}}', quoted)


ENCODERS: list[Callable[[str], tuple[Contract, str]]] = [
    plain,
    plain_with_an_empty_text,
    plain_of_an_older_version,
    connect_without_a_schema,
    connect_with_logical_types,
    debezium,
    debezium_with_an_unavailable_value,
    debezium_with_json_as_text,
]
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True, alphabet="-.eE+0123456789"
)


def find_number(text: str) -> Decimal:
    """Find the only number in a JSON text, or the one in its field `beside`."""
    value = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    while not isinstance(value, Decimal):
        value = value.get("beside", next(iter(value.values()))) if isinstance(value, dict) else value[0]
    return value


@pytest.mark.parametrize("encode", ENCODERS)
@settings(max_examples=60, deadline=None)
@given(NUMBERS)
@example(LONG)
@example("0.30000000000000001")
@example("1.10")
@example("-0")
@example("1e2")
@example("327267367867168100000")
@example("9007199254740993")
@example("35.00")
@example("1e400")
@example("1e-400")
@example("1e999999999999999999")
def test_every_column_stores_the_number_as_it_was_written(
    encode: Callable[[str], tuple[Contract, str]], number: str
) -> None:
    contract, raw = encode(number)
    row = judge_one(contract, raw.encode())
    assert row["_valid"], row["_reason"]
    written = Decimal(number)
    stored = {"total": Decimal(row["total"]), "_extra": find_number(row["_extra"])}
    # A list of Any is stored as JSON text too.
    stored |= {name: find_number(row[name]) for name in ("open", "any", "listed")}
    if encode in (plain, plain_with_an_empty_text, connect_without_a_schema):
        stored |= {name: find_number(row[name]) for name in ("either", "amounts")}
    for name, value in stored.items():
        # Only the sign of a zero may differ: -0 is stored as 0.
        assert (value, value.as_tuple()[1:]) == (written, written.as_tuple()[1:]), name


@pytest.mark.parametrize("number", ["1" * 5000, "1e9999999999999999999", "-1e-9999999999999999999"])
@pytest.mark.parametrize("encode", ENCODERS)
def test_a_number_that_a_decimal_cannot_hold_is_refused(
    encode: Callable[[str], tuple[Contract, str]], number: str
) -> None:
    contract, raw = encode(number)
    row = judge_one(contract, raw.encode())
    assert (row["_valid"], row["_raw"]) == (False, raw.encode())
    assert row["_code"] in ("out_of_range", "wrong_type")


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(-60, 60))
def test_decimals_of_kafka_connect_keep_their_digits(unscaled: bytes, scale: int) -> None:
    decimal = {
        "field": "total",
        "type": "bytes",
        "name": "org.apache.kafka.connect.data.Decimal",
        "parameters": {"scale": str(scale)},
    }
    schema = json.dumps({"type": "struct", "fields": [decimal]})
    payload = sale(f'"{base64.b64encode(unscaled).decode()}"')
    row = judge_one(
        attrs.evolve(contract_for(Sale), format="connect"),
        f'{{"schema": {schema}, "payload": {payload}}}'.encode(),
    )
    assert row["_valid"], row["_reason"]
    whole = int.from_bytes(unscaled, "big", signed=True)
    stored = Decimal(row["total"])
    assert stored.as_tuple().exponent == -scale
    digits = int("".join(map(str, stored.as_tuple().digits)))
    assert (-digits if stored.is_signed() else digits) == whole


@pytest.mark.parametrize("scale", ["9" * 19, "-" + "9" * 30])
def test_a_scale_that_a_decimal_cannot_have_is_refused(scale: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="out of range"):
        numbers.decimal_of(b"\x01", int(scale))
    decimal = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": scale}}
    schema = json.dumps({"type": "struct", "fields": [{"field": "total", **decimal}]})
    raw = f'{{"schema": {schema}, "payload": {sale(chr(34) + "AQ==" + chr(34))}}}'.encode()
    assert judge_one(attrs.evolve(contract_for(Sale), format="connect"), raw)["_code"] == "out_of_range"
    contract, envelope = debezium(f'{{"scale": {scale}, "value": "AQ=="}}')
    assert judge_one(contract, envelope.encode())["_code"] == "out_of_range"


@pytest.mark.parametrize("whole", ["35.0", "35.00", "3.5e1"])
def test_a_whole_number_with_a_point_is_an_integer_in_every_format(whole: str) -> None:
    for encode in (plain_with_an_empty_text, connect_without_a_schema, connect_with_logical_types):
        contract, raw = encode("0.10")
        row = judge_one(contract, raw.replace('"optional": ""', f'"optional": {whole}').encode())
        assert (row["_valid"], row["optional"]) == (True, 35), row["_reason"]
        assert Decimal(row["total"]) == Decimal("0.10")


@pytest.mark.parametrize("encode", [plain_with_an_empty_text, connect_without_a_schema])
def test_of_a_repeated_key_every_value_must_be_valid_and_the_last_counts(
    encode: Callable[[str], tuple[Contract, str]],
) -> None:
    contract, raw = encode("1")
    with_null = raw.replace('"optional": ""', '"optional": null')
    repeated, invalid = '"total": 1, "total": 2,', '"total": "x", "total": 2,'
    assert judge_one(contract, with_null.replace('"total": 1,', repeated).encode())["total"] == "2"
    for other in (with_null, raw):
        row = judge_one(contract, other.replace('"total": 1,', invalid).encode())
        assert (row["_code"], row["_field"]) == ("wrong_type", "total")
    # With a repeated key "" is not replaced by null.
    row = judge_one(contract, raw.replace('"total": 1,', repeated).encode())
    assert (row["_code"], row["_field"]) == ("wrong_type", "optional")


@pytest.mark.parametrize("text", [b'{"at": 10', b"[" * 100_000, b"\xff", b"[]", b'"x"', b"{}"])
def test_replace_empty_by_null_leaves_everything_but_objects(text: bytes) -> None:
    try:
        assert numbers.replace_empty_by_null(text, {"at"}) == text
    except formats.DECODE_ERRORS:
        assert text not in (b"[]", b'"x"', b"{}")


def test_only_the_named_top_level_fields_become_null() -> None:
    raw = b'{"a": "", "b": "", "c": {"a": ""}, "d": [1.10, ""], "e": "\\"a\\":\\"\\""}'
    assert numbers.replace_empty_by_null(raw, {"a"}) == (
        b'{"a":null,"b":"","c":{"a": ""},"d":[1.10, ""],"e":"\\"a\\":\\"\\""}'
    )


@pytest.mark.parametrize(
    ("number", "key"),
    [("1.10", b"1.10"), ('"1.10"', b"1.10"), (LONG, LONG.encode()), ('{"x": 1}', b"{'x': 1}"), ("null", None)],
)
def test_a_key_is_the_number_as_its_column_stores_it(number: str, key: bytes | None) -> None:
    contract = contract_for(Sale)
    read = key_reader(contract, formats.open(contract))
    assert read([sale(number).encode(), b"torn"]) == [key, None]
