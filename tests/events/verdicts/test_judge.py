"""Hostile and ordinary input: every event is exactly one verdict, and none raises."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import attrs
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.clicks import NOON, Click, click

from headrace import Meta, Struct, event
from headrace.declare.event import Contract, contract_of
from headrace.events.contracts.shape import CODES, table_schema
from headrace.events.verdicts.judge import Judge, Verdicts
from headrace.kernel.properties import FIRST_POSITION
from headrace.kernel.time import micros
from headrace.log import Batch


def of(declared: type[Struct]) -> Contract:
    found = contract_of(declared)
    assert found is not None
    return found


def batch(values: Sequence[bytes], arrived: datetime = NOON + timedelta(days=1), first: int = 0) -> Batch:
    n = len(values)
    return Batch(
        np.zeros(n, np.int32), np.arange(first, first + n), np.full(n, micros(arrived)), list(values),
        [None] * n, [None] * n, {0: first + n},
    )  # fmt: skip


def verdict(raw: bytes, contract: Contract | None = None) -> dict[str, Any]:
    """The one row that an event becomes."""
    made = Judge(contract or of(Click)).judge(batch([raw]))
    (row,) = made.rows.to_pylist()
    assert made.rows.schema == table_schema(contract or of(Click))
    assert made.good + sum(made.refused.values()) == 1
    return row


def refusal(raw: bytes, contract: Contract | None = None) -> tuple[str, str | None]:
    row = verdict(raw, contract)
    assert not row["_valid"]
    assert row["_raw"] == raw
    assert row["_code"] in CODES
    assert row["_reason"]
    return row["_code"], row["_field"]


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b"", "not_json", None),
        (b"\x00", "not_json", None),
        (b"\x00" * 100, "not_json", None),
        (click(1)[:-5], "not_json", None),
        (click(1) + b"x", "not_json", None),
        (click(1).replace(b'"home"', b"NaN"), "not_json", None),
        (b'"text"', "wrong_type", None),
        (b"null", "wrong_type", None),
        (b"[" + click(1) + b"]", "wrong_type", None),
        (b"{}", "missing", "at"),
        (b'{"at": "2026-03-01T12:00:00Z", "page": "home"}', "missing", "user"),
        (click(1).replace(b"home", b"\xff\xfe"), "bad_utf8", None),
        (click(1, note="x").replace(b'"x"', b'"\xff"'), "bad_utf8", None),
        (click(1, page="attic"), "unknown_value", "page"),
        (click(1, page=5), "wrong_type", "page"),
        (click(1, user="you"), "wrong_type", "user"),
        (click(1, user=""), "wrong_type", "user"),
        (click(1, user=None), "wrong_type", "user"),
        (click(1, user=1.5), "wrong_type", "user"),
        (click(1, user=2**63), "out_of_range", "user"),
        (click(1, user=-(2**63) - 1), "out_of_range", "user"),
        (click(1, user=10**40), "out_of_range", "user"),
        (click(1, price=-100), "out_of_range", "price"),
        (click(1, price="inf"), "out_of_range", "price"),
        (click(1, price="nan"), "out_of_range", "price"),
        (click(1, price=7).replace(b"7", b"1e999"), "out_of_range", "price"),
        (click(1, at="yesterday"), "bad_time", "at"),
        (click(1, at="2026-02-30T12:00:00Z"), "bad_time", "at"),
        (click(1, at="2026-02-30 12:00:00 UTC"), "bad_time", "at"),
        (click(1, at="2026-3-1 12:00:00"), "bad_time", "at"),
        (click(1, at="2026-03-01T12:00:00"), "naive_time", "at"),
        (click(1, at=1772366400), "wrong_type", "at"),
        (click(1, at="2026-03-02T12:05:01Z"), "future", "at"),
        (b'{"note":' + b"[" * 10_000_000, "wrong_type", "note"),
        (b'{"deep":' * 1_000_000, "too_deep", None),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused_for_its_reason(raw: bytes, code: str, field: str | None) -> None:
    found = refusal(raw)
    # 10 MB of brackets are named by what msgspec meets first; all of it is one verdict.
    assert found == (code, field)


@pytest.mark.parametrize(
    ("raw", "column", "value"),
    [
        (click(1), "user", 1),
        (click(1, user="35"), "user", 35),
        (click(1, user=2**63 - 1), "user", 2**63 - 1),
        (click(1, price=3), "price", 3.0),
        (click(1, price="2.5"), "price", 2.5),
        (click(1, price=""), "price", None),
        (click(1, note=""), "note", ""),
        (click(1, note="nul \x00 inside"), "note", "nul \x00 inside"),
        (click(1, other=[1, {"x": 2}]), "user", 1),
        (click(1).replace(b'"user": 1', b'"user": 7, "user": 8'), "user", 8),
        (click(1, at="2026-03-01 12:00:07 UTC"), "at", NOON + timedelta(seconds=7)),
        (click(1, at="2026-03-01T13:00:07.25+01:00"), "at", NOON + timedelta(seconds=7.25)),
        (click(1, at="2026-03-02T12:05:00Z"), "at", NOON + timedelta(days=1, minutes=5)),
    ],
)
def test_what_is_right_is_taken(raw: bytes, column: str, value: object) -> None:
    row = verdict(raw)
    assert row["_valid"], row["_reason"]
    assert row[column] == value
    assert row["_raw"] is None


def test_a_contract_may_be_strict() -> None:
    strict = attrs.evolve(of(Click), coerce=False, extra="forbid", time_formats=("rfc3339",))
    assert refusal(click(1, user="35"), strict) == ("wrong_type", "user")
    assert refusal(click(1, price=""), strict) == ("wrong_type", "price")
    assert refusal(click(1, other=1), strict) == ("extra", "other")
    assert refusal(click(1, at="2026-03-01 12:00:00 UTC"), strict) == ("bad_time", "at")


def test_the_rows_keep_each_event_beside_its_position() -> None:
    values = [click(1), b"no", click(2), click(3, price=-1)]
    made = Judge(of(Click)).judge(batch(values, first=10))
    rows = {row["_log_offset"]: row for row in made.rows.to_pylist()}
    assert [rows[o]["_valid"] for o in (10, 11, 12, 13)] == [True, False, True, False]
    assert [rows[o]["user"] for o in (10, 11, 12, 13)] == [1, None, 2, None]
    assert made.good_rows.column("_log_offset").to_pylist() == [10, 12]
    assert made.latest == micros(NOON + timedelta(days=1))


def test_an_empty_batch_is_no_rows() -> None:
    made = Judge(of(Click)).judge(batch([]))
    assert (made.rows.num_rows, made.good, made.latest) == (0, 0, 0)


class Colour(Enum):
    RED = "red"


@event(topic="many", time="at", extra="allow")
class Many(Struct, rename="camel"):
    at: datetime
    seen_at: datetime | None
    day: date
    amount: Decimal
    id: uuid.UUID
    colour: Colour
    level: Literal[1, 2]
    flags: list[bool]
    scores: list[int]
    raw: bytes
    inner: dict[str, float]
    anything: Any
    ratio: int | float
    small: Annotated[int, Meta(ge=0, lt=10)] = 0
    tags: list[str] = msgspec.field(default_factory=list)


MANY = {
    "at": "2026-03-01T12:00:00Z", "seenAt": None, "day": "2026-03-01", "amount": "1.50",
    "id": "a0a7a0a7-0000-4000-8000-000000000001", "colour": "red", "level": 2, "flags": [True],
    "scores": [1, 2], "raw": "AAE=", "inner": {"x": 1.5}, "anything": [1, "é"], "ratio": 3,
}  # fmt: skip


def test_every_kind_of_field_becomes_a_column() -> None:
    contract = of(Many)
    row = verdict(json.dumps(MANY).encode(), contract)
    assert row["_valid"], row["_reason"]
    assert {name: row[name] for name in Many.__struct_fields__} == {
        "at": NOON, "seen_at": None, "day": date(2026, 3, 1), "amount": "1.50",
        "id": "a0a7a0a7-0000-4000-8000-000000000001", "colour": "red", "level": 2, "flags": [True],
        "scores": [1, 2], "raw": b"\x00\x01", "inner": '{"x":1.5}', "anything": '[1,"é"]', "ratio": 3.0,
        "small": 0, "tags": [],
    }  # fmt: skip
    assert table_schema(contract).field("scores").type == pa.list_(pa.int64())
    later = json.dumps({**MANY, "seenAt": "2026-03-01T12:00:00.000001Z"}).encode()
    assert verdict(later, contract)["seen_at"] == NOON + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"scores": [1, 2**70]}, "out_of_range", "scores"),
        ({"small": 10}, "out_of_range", "small"),
        ({"small": -1}, "out_of_range", "small"),
        ({"seenAt": "soon"}, "bad_time", "seen_at"),
        ({"colour": "blue"}, "unknown_value", "colour"),
        ({"level": 3}, "unknown_value", "level"),
        ({"inner": {"x": "y"}}, "wrong_type", "inner"),
        ({"day": "2026-13-01"}, "bad_time", "day"),
    ],
)
def test_a_field_is_named_as_the_contract_names_it(fields: dict[str, Any], code: str, field: str) -> None:
    assert refusal(json.dumps({**MANY, **fields}).encode(), of(Many)) == (code, field)


@event(topic="spans", time="begin")
class Span(Struct):
    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.end < self.begin:
            raise ValueError("it ends before it begins")


def test_a_structs_own_check_refuses() -> None:
    contract = of(Span)
    good = b'{"begin": "2026-03-01T12:00:00Z", "end": "2026-03-01T13:00:00Z"}'
    assert verdict(good, contract)["_valid"]
    backwards = b'{"begin": "2026-03-01T12:00:00Z", "end": "2026-03-01T11:00:00Z"}'
    assert refusal(backwards, contract) == ("out_of_range", None)
    assert verdict(backwards, contract)["_reason"] == "it ends before it begins"


def judged(values: list[bytes]) -> Verdicts:
    made = Judge(of(Click)).judge(batch(values))
    assert sorted(made.rows.column("_log_offset").to_pylist()) == list(range(len(values)))
    assert made.good + sum(made.refused.values()) == len(values)
    assert set(made.refused) <= set(CODES)
    return made


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "at": st.sampled_from([NOON.isoformat(), "2026-03-01T12:00:00Z", "2026-03-01 12:00:00 UTC"]) | JSON,
        "user": st.integers() | JSON,
        "page": st.sampled_from(["home", "shop"]) | JSON,
        "price": st.floats() | JSON,
        "note": JSON,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | NEARLY.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_any_bytes_are_one_verdict_each(values: list[bytes]) -> None:
    judged(values)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_bytes_changed_anywhere_are_one_verdict(data: st.DataObject) -> None:
    raw = bytearray(click(1, note="é", price=2.5))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    judged([bytes(raw), click(2)])


def test_an_event_is_no_older_than_its_contract_takes() -> None:
    assert verdict(click(1, at="1970-01-01T00:00:00Z"))["_valid"]
    row = verdict(click(1, at="1969-12-31T23:59:59.999999Z"))
    assert (row["_code"], row["_field"]) == ("out_of_range", "at")
    assert row["_reason"].endswith("lies before 1970-01-01 00:00:00+00:00, the oldest that the contract takes")
    ancient = attrs.evolve(of(Click), oldest=datetime(1, 1, 1, tzinfo=UTC))
    assert verdict(click(1, at="1901-01-01T00:00:00Z"), ancient)["at"] == datetime(1901, 1, 1, tzinfo=UTC)
    assert verdict(click(1, at="0001-01-01T00:00:00Z"), ancient)["at"] == datetime(1, 1, 1, tzinfo=UTC)
    recent = attrs.evolve(of(Click), oldest=NOON)
    assert refusal(click(-1), recent) == ("out_of_range", "at")
    assert refusal(click(1, at="soon"), recent) == ("bad_time", "at")
    assert verdict(click(0), recent)["_valid"]


def test_fields_that_the_contract_does_not_name_are_kept_and_counted() -> None:
    many = [click(n, **{f"field{n}": 1}) for n in range(10, 40)]
    twice = click(50, color="red", size={"cm": 3})
    empty = click(51, price="", color="red")  # decoded by the other way
    broken = click(52, color="red", page="moon")
    values = [click(1), twice, empty, broken, *many]
    found = Judge(of(Click)).judge(batch(values))
    assert found.good == len(values) - 1
    assert found.refused == {"unknown_value": 1}
    assert found.rows.schema == table_schema(of(Click))
    kept = found.rows["_extra"].to_pylist()
    assert kept[:4] == [None, '{"color":"red","size":{"cm":3}}', '{"color":"red"}', '{"field10":1}']
    assert kept[-1] is None
    assert found.extra["color"] == 2
    assert found.extra["(others)"] == 30 - 19
    assert sum(found.extra.values()) == 32
    assert Judge(of(Click)).judge(batch([click(1)])).extra == {}
    judge = Judge(of(Click))
    judge.judge(batch(values))
    assert judge.judge(batch([click(99)])).extra == {}


class Tree(Struct):
    name: str
    below: list[Tree] = msgspec.field(default_factory=list)


class Inner(Struct, rename="camel"):
    seen_at: datetime
    size: float = 1.0


@event(
    topic="nested",
    time="at",
    time_formats=["rfc3339", "%d.%m.%Y %H:%M:%S", "epoch_ms"],
    timezone="Europe/Paris",
    max_late="30d",
    coerce=True,
)
class Nested(Struct):
    at: datetime
    inner: Inner | None = None
    many: list[Inner] = msgspec.field(default_factory=list)
    grid: list[list[int]] | None = None
    clock: time | None = None
    open: dict[str, Any] | None = None
    days: dict[str, datetime] | None = None
    tree: Tree | None = None


def nested(at: Any = "2026-03-01T12:00:00Z", **fields: Any) -> bytes:
    return json.dumps({"at": at, **fields}).encode()


@pytest.mark.parametrize(
    ("raw", "column", "value"),
    [
        (nested(1772366400123), "at", NOON + timedelta(milliseconds=123)),
        (nested("1772366400123"), "at", NOON + timedelta(milliseconds=123)),
        (nested(1772366400123.5), "at", NOON + timedelta(milliseconds=123.5)),
        (nested("2026-03-01T13:00:00"), "at", NOON),
        (nested("01.03.2026 13:00:00"), "at", NOON),
        (nested("2026-03-01T13:00:00.5"), "at", NOON + timedelta(seconds=0.5)),
        # The clocks go back at 3:00 on 26 October 2025 and show the hour before twice: the first counts.
        (nested(inner={"seenAt": "26.10.2025 02:30:00"}), "inner",
         {"seen_at": datetime(2025, 10, 26, 0, 30, tzinfo=UTC), "size": 1.0}),
        (nested(inner={"seenAt": "0001-01-01T00:00:00Z"}), "inner",
         {"seen_at": datetime(1, 1, 1, tzinfo=UTC), "size": 1.0}),
        (nested(inner={"seenAt": 0, "size": "2"}), "inner",
         {"seen_at": datetime(1970, 1, 1, tzinfo=UTC), "size": 2.0}),
        (nested(tree={"name": "a", "below": [{"name": "b"}]}), "tree",
         {"name": "a", "below": '[{"name":"b","below":[]}]'}),
        (nested(many=[]), "many", []),
        (nested(grid=[[1], [], [2, 3]]), "grid", [[1], [], [2, 3]]),
        (nested(clock="12:30:00.5"), "clock", time(12, 30, 0, 500_000)),
        (nested(open={"a": None, "b": [1.5]}), "open", '{"a":null,"b":[1.5]}'),
        (nested(days={"x": "2026-03-01T12:00:00Z"}), "days", '{"x":"2026-03-01T12:00:00Z"}'),
        (nested(inner={"seenAt": 0, "more": 1}, many=[{"seenAt": 0}, {"seenAt": 1, "x": "é"}], top=2), "_extra",
         '{"inner":{"more":1},"many":[{},{"x":"é"}],"top":2}'),
        (b'{"at": 0, "at": 1772366400000, "inner": {"seenAt": 1, "seenAt": 2}}', "inner",
         {"seen_at": datetime(1970, 1, 1, 0, 0, 0, 2000, tzinfo=UTC), "size": 1.0}),
    ],
)  # fmt: skip
def test_what_lies_inside_is_stored_as_it_is(raw: bytes, column: str, value: object) -> None:
    row = verdict(raw, of(Nested))
    assert row["_valid"], row["_reason"]
    assert row[column] == value


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (nested(10**15), "out_of_range", "at"),
        (nested(1e300), "out_of_range", "at"),
        (nested(True), "wrong_type", "at"),
        # The clocks go from 2:00 to 3:00 on 29 March 2026.
        (nested("2026-03-29T02:30:00"), "bad_time", "at"),
        (nested("29.03.2026 02:30:00"), "bad_time", "at"),
        (nested("2026-01-30T12:00:00Z"), "late", "at"),
        (nested(inner={"seenAt": "soon"}), "bad_time", "inner"),
        (nested(inner={"seenAt": "0000-01-01T00:00:00Z"}), "bad_time", "inner"),
        (nested(many=[{"seenAt": "9999-12-31T23:59:59-12:00"}]), "out_of_range", "many"),
        (nested(inner={"seenAt": 0, "size": 1}).replace(b": 1}", b": 1e999}"), "out_of_range", "inner"),
        (nested(inner={}), "missing", "inner"),
        (nested(many=[{"seenAt": 0}, {"seenAt": 0, "size": "nan"}]), "out_of_range", "many"),
        (nested(grid=[[1], [2**63]]), "out_of_range", "grid"),
        (nested(clock="12:30:00Z"), "bad_time", "clock"),
        (nested(open={"a": [7]}).replace(b"7", b"1e" + b"9" * 20), "out_of_range", None),
        (nested(days={"x": "2026-03-01T12:00:00"}), "naive_time", "days"),
        (nested(inner={"seenAt": 0, "x": 1}).replace(b'"x": 1', b'"x": "\xff"'), "bad_utf8", None),
    ],
)  # fmt: skip
def test_what_is_broken_inside_is_named_by_its_top_field(raw: bytes, code: str, field: str | None) -> None:
    assert refusal(raw, of(Nested)) == (code, field)


def test_a_replay_is_not_too_late() -> None:
    old = nested("2026-01-30T12:00:00Z")
    two = batch([old, old])
    headed = dataclasses.replace(two, headers=[{FIRST_POSITION: b"0:7"}, None])
    made = Judge(of(Nested), lambda _: set()).judge(headed)
    assert (made.good, made.refused) == (1, {"late": 1})
    assert made.rows["_first_offset"].to_pylist() == [7, None]


def test_extra_fields_inside_are_refused_where_the_contract_says_so() -> None:
    strict = attrs.evolve(of(Nested), extra="forbid")
    assert refusal(nested(many=[{"seenAt": 0}, {"seenAt": 0, "x": 1}]), strict) == ("extra", "many")
    assert verdict(nested(many=[{"seenAt": 0}]), strict)["_valid"]


class Bounds(Struct):
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


@event(topic="ranges", time="at")
class Ranges(Struct):
    at: datetime
    bounds: list[Bounds]
    open: dict[str, int]

    def __post_init__(self) -> None:
        if not self.open:
            raise ValueError("it is empty")
        1 // next(iter(self.open.values()))


def test_a_refusal_in_words_that_cannot_be_stored_is_kept_all_the_same() -> None:
    @event(topic="shy", time="at")
    class Shy(Struct):
        at: datetime

        def __post_init__(self) -> None:
            raise ValueError("no \ud800 here")

    assert verdict(nested(), of(Shy))["_reason"] == r"no \ud800 here"


def test_a_span_longer_than_all_of_time_bounds_nothing() -> None:
    endless = attrs.evolve(
        of(Click), max_ahead=timedelta.max, max_late=timedelta.max, dedup_within=timedelta.max
    )
    assert verdict(click(1, at="9999-12-31T23:59:59Z"), endless)["_valid"]
    assert verdict(click(1, at="1970-01-01T00:00:00Z"), endless)["_valid"]


def test_checks_of_nested_structs_see_them_as_declared() -> None:
    def raw(low: float, **open: int) -> bytes:
        return nested(bounds=[{"low": 0, "high": 1}, {"low": low, "high": 2}], open=open)

    assert verdict(raw(1, a=1), of(Ranges))["_valid"]
    assert verdict(raw(3, a=1), of(Ranges))["_reason"] == "low is above high"
    assert verdict(raw(1), of(Ranges))["_reason"] == "it is empty"
    assert verdict(raw(1, zero=0), of(Ranges))["_reason"].startswith("ZeroDivisionError")
