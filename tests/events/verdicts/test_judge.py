"""The judge: every event, ordinary or hostile, gets exactly one verdict, and none raises."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal

import attrs
import msgspec
import msgspec.structs
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.events.clicks import NOON, Click, click

from headrace import Meta, Struct, event
from headrace.declare.event import Contract, contract_of
from headrace.events.contracts.shape import CODES, table_schema
from headrace.events.verdicts.judge import Judge
from headrace.kernel.properties import FIRST_POSITION, HISTORY
from headrace.kernel.time import micros
from headrace.log import Batch


def contract_for(struct: type[Struct]) -> Contract:
    contract = contract_of(struct)
    assert contract is not None
    return contract


def batch(values: Sequence[bytes], arrived: datetime = NOON + timedelta(days=1), first: int = 0) -> Batch:
    n = len(values)
    return Batch(
        np.zeros(n, np.int32),
        np.arange(first, first + n),
        np.full(n, micros(arrived)),
        list(values),
        [None] * n,
        [None] * n,
        {0: first + n},
    )


def judge_one(raw: bytes, contract: Contract | None = None) -> dict[str, Any]:
    """Judge one event, and return its row."""
    verdicts = Judge(contract or contract_for(Click)).judge(batch([raw]))
    (row,) = verdicts.rows.to_pylist()
    assert verdicts.rows.schema == table_schema(contract or contract_for(Click))
    assert verdicts.good + sum(verdicts.refused.values()) == 1
    return row


def refuse(raw: bytes, contract: Contract | None = None) -> tuple[str, str | None]:
    """Judge one event that is refused, and return its code and field."""
    row = judge_one(raw, contract)
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
)
def test_an_invalid_event_is_refused_with_its_code_and_field(raw: bytes, code: str, field: str | None) -> None:
    # msgspec reports the type of `note` before the depth of its 10 MB of brackets.
    assert refuse(raw) == (code, field)


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
def test_a_valid_event_is_admitted(raw: bytes, column: str, value: object) -> None:
    row = judge_one(raw)
    assert row["_valid"], row["_reason"]
    assert row[column] == value
    assert row["_raw"] is None


def test_a_contract_may_be_strict() -> None:
    strict = attrs.evolve(contract_for(Click), coerce=False, extra="forbid", time_formats=("rfc3339",))
    assert refuse(click(1, user="35"), strict) == ("wrong_type", "user")
    assert refuse(click(1, price=""), strict) == ("wrong_type", "price")
    assert refuse(click(1, other=1), strict) == ("extra", "other")
    assert refuse(click(1, at="2026-03-01 12:00:00 UTC"), strict) == ("bad_time", "at")


def test_each_row_has_the_position_of_its_event() -> None:
    values = [click(1), b"no", click(2), click(3, price=-1)]
    verdicts = Judge(contract_for(Click)).judge(batch(values, first=10))
    rows = {row["_log_offset"]: row for row in verdicts.rows.to_pylist()}
    assert [rows[o]["_valid"] for o in (10, 11, 12, 13)] == [True, False, True, False]
    assert [rows[o]["user"] for o in (10, 11, 12, 13)] == [1, None, 2, None]
    assert verdicts.good_rows.column("_log_offset").to_pylist() == [10, 12]
    assert verdicts.latest == micros(NOON + timedelta(days=1))


def test_an_empty_batch_gives_an_empty_table() -> None:
    verdicts = Judge(contract_for(Click)).judge(batch([]))
    assert (verdicts.rows.num_rows, verdicts.good, verdicts.latest) == (0, 0, 0)


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
    "at": "2026-03-01T12:00:00Z",
    "seenAt": None,
    "day": "2026-03-01",
    "amount": "1.50",
    "id": "a0a7a0a7-0000-4000-8000-000000000001",
    "colour": "red",
    "level": 2,
    "flags": [True],
    "scores": [1, 2],
    "raw": "AAE=",
    "inner": {"x": 1.5},
    "anything": [1, "é"],
    "ratio": 3,
}


def test_every_kind_of_field_becomes_a_column() -> None:
    contract = contract_for(Many)
    row = judge_one(json.dumps(MANY).encode(), contract)
    assert row["_valid"], row["_reason"]
    assert {name: row[name] for name in Many.__struct_fields__} == {
        "at": NOON,
        "seen_at": None,
        "day": date(2026, 3, 1),
        "amount": "1.50",
        "id": "a0a7a0a7-0000-4000-8000-000000000001",
        "colour": "red",
        "level": 2,
        "flags": [True],
        "scores": [1, 2],
        "raw": b"\x00\x01",
        "inner": '{"x":1.5}',
        "anything": '[1,"é"]',
        "ratio": 3.0,
        "small": 0,
        "tags": [],
    }
    assert table_schema(contract).field("scores").type == pa.list_(pa.int64())
    later = json.dumps({**MANY, "seenAt": "2026-03-01T12:00:00.000001Z"}).encode()
    assert judge_one(later, contract)["seen_at"] == NOON + timedelta(microseconds=1)


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
def test_a_refusal_names_the_field_as_the_contract_does(fields: dict[str, Any], code: str, field: str) -> None:
    assert refuse(json.dumps({**MANY, **fields}).encode(), contract_for(Many)) == (code, field)


@event(topic="spans", time="begin")
class Span(Struct):
    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.end < self.begin:
            raise ValueError("it ends before it begins")


def test_an_event_that_fails_a_post_init_is_refused() -> None:
    contract = contract_for(Span)
    good = b'{"begin": "2026-03-01T12:00:00Z", "end": "2026-03-01T13:00:00Z"}'
    assert judge_one(good, contract)["_valid"]
    backwards = b'{"begin": "2026-03-01T12:00:00Z", "end": "2026-03-01T11:00:00Z"}'
    assert refuse(backwards, contract) == ("out_of_range", None)
    assert judge_one(backwards, contract)["_reason"] == "it ends before it begins"


def check_verdicts(values: list[bytes]) -> None:
    """Judge events, and check that each gets one verdict."""
    verdicts = Judge(contract_for(Click)).judge(batch(values))
    assert sorted(verdicts.rows.column("_log_offset").to_pylist()) == list(range(len(values)))
    assert verdicts.good + sum(verdicts.refused.values()) == len(values)
    assert set(verdicts.refused) <= set(CODES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NEARLY_VALID = st.fixed_dictionaries(
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
@given(
    st.lists(st.binary(max_size=40) | NEARLY_VALID.map(lambda value: json.dumps(value).encode()), max_size=5)
)
def test_any_bytes_get_one_verdict_each(values: list[bytes]) -> None:
    check_verdicts(values)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_an_event_with_changed_bytes_gets_one_verdict(data: st.DataObject) -> None:
    raw = bytearray(click(1, note="é", price=2.5))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check_verdicts([bytes(raw), click(2)])


def test_an_event_before_oldest_is_refused() -> None:
    assert judge_one(click(1, at="1970-01-01T00:00:00Z"))["_valid"]
    row = judge_one(click(1, at="1969-12-31T23:59:59.999999Z"))
    assert (row["_code"], row["_field"]) == ("out_of_range", "at")
    assert row["_reason"].endswith("is before 1970-01-01 00:00:00+00:00, the oldest time of the contract")
    ancient = attrs.evolve(contract_for(Click), oldest=datetime(1, 1, 1, tzinfo=UTC))
    assert judge_one(click(1, at="1901-01-01T00:00:00Z"), ancient)["at"] == datetime(1901, 1, 1, tzinfo=UTC)
    assert judge_one(click(1, at="0001-01-01T00:00:00Z"), ancient)["at"] == datetime(1, 1, 1, tzinfo=UTC)
    recent = attrs.evolve(contract_for(Click), oldest=NOON)
    assert refuse(click(-1), recent) == ("out_of_range", "at")
    assert refuse(click(1, at="soon"), recent) == ("bad_time", "at")
    assert judge_one(click(0), recent)["_valid"]


def test_fields_that_the_contract_does_not_name_are_stored_and_counted() -> None:
    many = [click(n, **{f"field{n}": 1}) for n in range(10, 40)]
    twice = click(50, color="red", size={"cm": 3})
    empty = click(51, price="", color="red")  # decoded with "" as null
    broken = click(52, color="red", page="moon")
    values = [click(1), twice, empty, broken, *many]
    verdicts = Judge(contract_for(Click)).judge(batch(values))
    assert verdicts.good == len(values) - 1
    assert verdicts.refused == {"unknown_value": 1}
    assert verdicts.rows.schema == table_schema(contract_for(Click))
    extra = verdicts.rows["_extra"].to_pylist()
    assert extra[:4] == [None, '{"color":"red","size":{"cm":3}}', '{"color":"red"}', '{"field10":1}']
    assert extra[-1] is None
    assert verdicts.extra["color"] == 2
    assert verdicts.extra["(others)"] == 30 - 19
    assert sum(verdicts.extra.values()) == 32
    assert Judge(contract_for(Click)).judge(batch([click(1)])).extra == {}
    judge = Judge(contract_for(Click))
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


def encode_nested(at: Any = "2026-03-01T12:00:00Z", **fields: Any) -> bytes:
    return json.dumps({"at": at, **fields}).encode()


@pytest.mark.parametrize(
    ("raw", "column", "value"),
    [
        (encode_nested(1772366400123), "at", NOON + timedelta(milliseconds=123)),
        (encode_nested("1772366400123"), "at", NOON + timedelta(milliseconds=123)),
        (encode_nested(1772366400123.5), "at", NOON + timedelta(milliseconds=123.5)),
        (encode_nested("2026-03-01T13:00:00"), "at", NOON),
        (encode_nested("01.03.2026 13:00:00"), "at", NOON),
        (encode_nested("2026-03-01T13:00:00.5"), "at", NOON + timedelta(seconds=0.5)),
        # On 26 October 2025 the clocks go back at 3:00 and show an hour twice: the first is meant.
        (
            encode_nested(inner={"seenAt": "26.10.2025 02:30:00"}),
            "inner",
            {"seen_at": datetime(2025, 10, 26, 0, 30, tzinfo=UTC), "size": 1.0},
        ),
        (
            encode_nested(inner={"seenAt": "0001-01-01T00:00:00Z"}),
            "inner",
            {"seen_at": datetime(1, 1, 1, tzinfo=UTC), "size": 1.0},
        ),
        (
            encode_nested(inner={"seenAt": 0, "size": "2"}),
            "inner",
            {"seen_at": datetime(1970, 1, 1, tzinfo=UTC), "size": 2.0},
        ),
        (
            encode_nested(tree={"name": "a", "below": [{"name": "b"}]}),
            "tree",
            {"name": "a", "below": '[{"name":"b","below":[]}]'},
        ),
        (encode_nested(many=[]), "many", []),
        (encode_nested(grid=[[1], [], [2, 3]]), "grid", [[1], [], [2, 3]]),
        (encode_nested(clock="12:30:00.5"), "clock", time(12, 30, 0, 500_000)),
        (encode_nested(open={"a": None, "b": [1.5]}), "open", '{"a":null,"b":[1.5]}'),
        (encode_nested(days={"x": "2026-03-01T12:00:00Z"}), "days", '{"x":"2026-03-01T12:00:00Z"}'),
        (
            encode_nested(inner={"seenAt": 0, "more": 1}, many=[{"seenAt": 0}, {"seenAt": 1, "x": "é"}], top=2),
            "_extra",
            '{"inner":{"more":1},"many":[{},{"x":"é"}],"top":2}',
        ),
        (
            b'{"at": 0, "at": 1772366400000, "inner": {"seenAt": 1, "seenAt": 2}}',
            "inner",
            {"seen_at": datetime(1970, 1, 1, 0, 0, 0, 2000, tzinfo=UTC), "size": 1.0},
        ),
    ],
)
def test_nested_values_are_stored(raw: bytes, column: str, value: object) -> None:
    row = judge_one(raw, contract_for(Nested))
    assert row["_valid"], row["_reason"]
    assert row[column] == value


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (encode_nested(10**15), "out_of_range", "at"),
        (encode_nested(1e300), "out_of_range", "at"),
        (encode_nested(True), "wrong_type", "at"),
        # The clocks go from 2:00 to 3:00 on 29 March 2026.
        (encode_nested("2026-03-29T02:30:00"), "bad_time", "at"),
        (encode_nested("29.03.2026 02:30:00"), "bad_time", "at"),
        (encode_nested("2026-01-30T12:00:00Z"), "late", "at"),
        (encode_nested(inner={"seenAt": "soon"}), "bad_time", "inner"),
        (encode_nested(inner={"seenAt": "0000-01-01T00:00:00Z"}), "bad_time", "inner"),
        (encode_nested(many=[{"seenAt": "9999-12-31T23:59:59-12:00"}]), "out_of_range", "many"),
        (encode_nested(inner={"seenAt": 0, "size": 1}).replace(b": 1}", b": 1e999}"), "out_of_range", "inner"),
        (encode_nested(inner={}), "missing", "inner"),
        (encode_nested(many=[{"seenAt": 0}, {"seenAt": 0, "size": "nan"}]), "out_of_range", "many"),
        (encode_nested(grid=[[1], [2**63]]), "out_of_range", "grid"),
        (encode_nested(clock="12:30:00Z"), "bad_time", "clock"),
        (encode_nested(open={"a": [7]}).replace(b"7", b"1e" + b"9" * 20), "out_of_range", None),
        (encode_nested(days={"x": "2026-03-01T12:00:00"}), "naive_time", "days"),
        (encode_nested(inner={"seenAt": 0, "x": 1}).replace(b'"x": 1', b'"x": "\xff"'), "bad_utf8", None),
    ],
)
def test_an_invalid_nested_value_is_refused_with_its_top_level_field(
    raw: bytes, code: str, field: str | None
) -> None:
    assert refuse(raw, contract_for(Nested)) == (code, field)


def test_a_replay_is_not_too_late() -> None:
    old = encode_nested("2026-01-30T12:00:00Z")
    replayed = msgspec.structs.replace(batch([old, old]), headers=[{FIRST_POSITION: b"0:7"}, None])
    verdicts = Judge(contract_for(Nested), lambda _: set()).judge(replayed)
    assert (verdicts.good, verdicts.refused) == (1, {"late": 1})
    assert verdicts.rows["_first_offset"].to_pylist() == [7, None]


def test_extra_nested_fields_are_refused_if_the_contract_forbids_them() -> None:
    strict = attrs.evolve(contract_for(Nested), extra="forbid")
    assert refuse(encode_nested(many=[{"seenAt": 0}, {"seenAt": 0, "x": 1}]), strict) == ("extra", "many")
    assert judge_one(encode_nested(many=[{"seenAt": 0}]), strict)["_valid"]


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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no \ud800 here"), r"no \ud800 here"),  # a lone surrogate is stored escaped
        (SystemExit("enough"), "SystemExit: enough"),  # it refuses the event, and ends nothing
    ],
)
def test_what_a_check_raises_is_the_reason(error: BaseException, reason: str) -> None:
    @event(topic="checked", time="at")
    class Checked(Struct):
        at: datetime

        def __post_init__(self) -> None:
            raise error

    assert judge_one(encode_nested(), contract_for(Checked))["_reason"] == reason


def test_a_duration_longer_than_all_of_time_is_no_bound() -> None:
    endless = attrs.evolve(
        contract_for(Click), max_ahead=timedelta.max, max_late=timedelta.max, dedup_within=timedelta.max
    )
    assert judge_one(click(1, at="9999-12-31T23:59:59Z"), endless)["_valid"]
    assert judge_one(click(1, at="1970-01-01T00:00:00Z"), endless)["_valid"]


def test_the_post_init_of_nested_structs_is_run() -> None:
    def raw(low: float, **open: int) -> bytes:
        return encode_nested(bounds=[{"low": 0, "high": 1}, {"low": low, "high": 2}], open=open)

    assert judge_one(raw(1, a=1), contract_for(Ranges))["_valid"]
    assert judge_one(raw(3, a=1), contract_for(Ranges))["_reason"] == "low is above high"
    assert judge_one(raw(1), contract_for(Ranges))["_reason"] == "it is empty"
    assert judge_one(raw(1, zero=0), contract_for(Ranges))["_reason"].startswith("ZeroDivisionError")


def test_an_event_is_known_from_its_arrival_and_history_from_its_own_time() -> None:
    values = [click(1), click(2), b"broken", b"broken"]
    arrived = NOON + timedelta(days=1)
    headers = [None, {HISTORY: b"1"}, None, {HISTORY: b"1"}]
    judged = Judge(contract_for(Click)).judge(msgspec.structs.replace(batch(values), headers=headers))
    rows = {row["_log_offset"]: row for row in judged.rows.to_pylist()}
    assert [rows[offset]["_known_at"] for offset in range(4)] == [arrived, rows[1]["at"], arrived, None]


def test_events_that_arrived_before_history_until_are_history() -> None:
    arrived = NOON + timedelta(days=1)
    for until, known in ((arrived, arrived), (arrived + timedelta(microseconds=1), None)):
        judge = Judge(contract_for(Click), history_until=until)
        (row,) = judge.judge(batch([click(1)], arrived)).rows.to_pylist()
        assert row["_known_at"] == (known or row["at"])


SAME_NUMBER = [
    b"0.3",
    b"0.30",
    b'"0.3"',
    b"3e-1",
    b"0.30000000000000001",
    b"0",
    b"-0.00",
    b"1e2",
    b"100",
    b"null",
]


def test_decimals_of_equal_value_are_one_identity() -> None:
    @event(topic="payments", time="at", identity=["amount"], dedup_within="1d")
    class Payment(Struct):
        amount: Decimal | None
        at: datetime

    raw = [b'{"amount":%s,"at":"2026-03-01T12:00:00Z"}' % number for number in SAME_NUMBER]
    first = [True, False, False, False, True, True, False, True, False, True]
    verdicts = Judge(contract_for(Payment)).judge(batch(raw))
    admitted = verdicts.good_rows["_log_offset"].to_pylist()
    assert admitted == [place for place, is_first in enumerate(first) if is_first]
    # Also against the rows of the table, after a restart.
    restarted = Judge(contract_for(Payment))
    restarted.remember(pl.DataFrame(pl.from_arrow(verdicts.good_rows)))
    assert restarted.judge(batch(raw, first=len(raw))).good == 0
