"""Debezium's envelopes as events: the values of PostgreSQL, and the changes that are refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import attrs
import numpy as np
import polars as pl
import pytest
from tests.events.customers import NOON, Customer, change

from headrace.declare.event import contract_of
from headrace.events.verdicts.judge import Judge, Verdicts
from headrace.log.port import Batch

ARRIVED = NOON + 3_600_000_000


def judge(*raw: bytes, **rules: Any) -> Verdicts:
    contract = contract_of(Customer)
    assert contract is not None
    contract = attrs.evolve(contract, **rules)
    count = len(raw)
    absent: list[Any] = [None] * count
    batch = Batch(
        np.zeros(count, np.int32),
        np.arange(count),
        np.full(count, ARRIVED),
        list(raw),
        absent,
        absent,
        {0: count},
    )
    return Judge(contract).judge(batch)


def store(name: str, written: Any) -> Any:
    """Judge a row with this value, and return the value as it is stored."""
    verdicts = judge(change("c", 1, {"id": 1, "name": "n", name: written}))
    assert verdicts.good == 1, verdicts.rows["_reason"].to_pylist()
    return pl.DataFrame(verdicts.rows)[name][0]


def refuse(raw: bytes, **rules: Any) -> tuple[str, str | None]:
    """Judge a change that is refused, and return its code and field."""
    rows = judge(raw, **rules).rows
    assert not rows["_valid"][0].as_py()
    assert rows["_raw"][0].as_py() == raw
    return rows["_code"][0].as_py(), rows["_field"][0].as_py()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_change_becomes_the_row_after_it_with_the_columns_of_the_change(wrapped: bool) -> None:
    raw = change("u", 7, {"id": 1, "name": "a", "balance": "1.10"}, wrapped=wrapped, txId=99)
    row = pl.DataFrame(judge(raw).rows).row(0, named=True)
    assert (row["id"], row["name"], row["balance"], row["mood"]) == (1, "a", "1.10", None)
    assert (row["_op"], row["_lsn"], row["_transaction"], row["_snapshot"]) == ("u", 7, 99, None)
    assert row["_changed_at"] == datetime(2026, 3, 1, 12, 0, 7, tzinfo=UTC)


def test_deleted_rows_keep_their_key_truncates_are_null_and_tombstones_are_skipped() -> None:
    rows = pl.DataFrame(
        judge(
            change("d", 1, {"id": 5, "name": "", "balance": None}),
            b"",
            b'{"schema": null, "payload": null}',
            change("t", 2),
        ).rows
    )
    assert rows.select("id", "name", "_op", "_log_offset").rows() == [(5, None, "d", 0), (None, None, "t", 3)]


@pytest.mark.parametrize(
    ("name", "written", "stored"),
    [
        ("balance", "12345678901234567890.123456789012345678", "12345678901234567890.123456789012345678"),
        ("balance", {"scale": 2, "value": "AfQ="}, "5.00"),
        ("balance", {"scale": 2, "value": "/gw="}, "-5.00"),
        ("since", "2026-01-01T00:00:00.123456+02:00", datetime(2025, 12, 31, 22, 0, 0, 123456, UTC)),
        ("born", "1999-12-31Z", date(1999, 12, 31)),
        ("born", 20_000, date(2024, 10, 4)),
        ("tags", ["a", "b"], ["a", "b"]),
        ("notes", '{"x": [1, null]}', '{"x":[1,null]}'),
        ("photo", "AQI=", b"\x01\x02"),
    ],
)
def test_values_are_stored_exactly(name: str, written: Any, stored: Any) -> None:
    result = store(name, written)
    assert (result.to_list() if isinstance(result, pl.Series) else result) == stored


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b"{}", "missing", "op"),
        (b"nope", "not_json", None),
        (b"[1]", "wrong_type", None),
        (b'{"op": 1}', "wrong_type", "op"),
        (b'{"op": "m"}', "unknown_value", "op"),
        (b'{"payload": {"op": "c", "after": {"id": "x", "name": "n"}}}', "wrong_type", "id"),
        (b'{"op": "d", "before": {}}', "missing", "id"),
        (change("c", 1), "missing", "after"),
        (change("d", 1), "missing", "before"),
        (change("c", 1, {"name": "n"}), "missing", "id"),
        (change("c", 1, {"id": 1, "name": "n", "mood": "sad"}), "unknown_value", "mood"),
        (change("c", 1, {"id": 1, "name": "n", "born": "2026-99-99Z"}), "bad_time", "born"),
        (change("c", 1, {"id": 1, "name": "n", "born": 2**40}), "bad_time", "born"),
        (change("c", 1, {"id": 1, "name": "n", "since": "2026-01-01T00:00:00"}), "naive_time", "since"),
        (change("c", 1, {"id": 1, "name": "n", "since": 1_767_225_600_123}), "bad_time", "since"),
        (change("c", 1, {"id": 1, "name": "n", "since": "1767225600123456"}), "bad_time", "since"),
        (change("c", 1, {"id": 1, "name": "n", "since": "infinity"}), "bad_time", "since"),
        (change("c", 1, {"id": 1, "name": "n", "since": True}), "wrong_type", "since"),
        (change("c", 1, {"id": 1, "name": "n", "since": 1.5}), "wrong_type", "since"),
        (change("c", 1, {"id": 1, "name": "n", "notes": "{"}), "wrong_type", "notes"),
        (change("c", 1, {"id": 1, "name": "n", "notes": '{"a":' * 100_000}), "too_deep", "notes"),
        (change("c", 1, {"id": 1, "name": "n", "balance": "AfQ="}), "wrong_type", "balance"),
        (change("c", 1, {"id": 1, "name": "n", "balance": "NAN"}), "out_of_range", "balance"),
        (change("c", 1, {"id": 1, "name": "\ud800"}), "not_json", None),
        (change("c", -1, {"id": 1, "name": "n"}), "missing", "source"),
        (change("c", 2**63, {"id": 1, "name": "n"}, at=1), "missing", "source"),
        (change("c", 1, {"id": 1, "name": "n"}, ts_us=2**62), "missing", "source"),
        (change("c", 1, {"id": 1, "name": "n"}, txId=2**63), "out_of_range", "source"),
    ],
)
def test_an_invalid_change_is_refused_with_its_column(raw: bytes, code: str, field: str) -> None:
    assert refuse(raw) == (code, field)


# Debezium 3.6.3 writes these for 1971-01-01, 9999-12-31, infinity and -infinity, by time.precision.mode.
IN_1971, IN_9999 = datetime(1971, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
INSTANTS = [
    ("ms", "io.debezium.time.Timestamp", 31536000000, IN_1971),
    ("ms", "org.apache.kafka.connect.data.Timestamp", 253402214400000, IN_9999),
    ("ms", "io.debezium.time.Timestamp", 9223372036825200, None),
    ("ms", "io.debezium.time.Timestamp", -9223372036832400, None),
    ("us", "io.debezium.time.MicroTimestamp", 31536000000000, IN_1971),
    ("us", "io.debezium.time.MicroTimestamp", 253402214400000000, IN_9999),
    ("us", "io.debezium.time.MicroTimestamp", 9223372036825200000, None),
    ("us", "io.debezium.time.MicroTimestamp", -9223372036832400000, None),
    ("ns", "io.debezium.time.NanoTimestamp", 31536000000000000, IN_1971),
    ("ns", "io.debezium.time.NanoTimestamp", -1, datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)),
    ("ns", "io.debezium.time.NanoTimestamp", 9223372036854775807, None),
    ("ns", "io.debezium.time.NanoTimestamp", -9223372036854775808, None),
    ("ns", "io.debezium.time.NanoTimestamp", 2**80, None),
]


@pytest.mark.parametrize(("unit", "name", "written", "instant"), INSTANTS)
def test_a_number_is_an_instant_in_the_unit_of_its_schema_or_contract(
    unit: str, name: str, written: int, instant: datetime | None
) -> None:
    raw = change("c", 1, {"id": 1, "name": "n", "since": written})
    column = {"type": "int64", "name": name, "field": "since"}
    before = {"field": "before", "fields": [{"field": "since", "name": "x"}]}
    schema = {"type": "struct", "fields": [before, {"field": "after", "fields": [{"field": "id"}, column]}]}
    with_schema = json.dumps({"schema": schema, "payload": json.loads(raw)}).encode()
    other = "ms" if unit != "ms" else "us"
    for event, declared_unit in ((raw, unit), (with_schema, None), (with_schema, other)):
        if instant is None:
            assert refuse(event, time_unit=declared_unit) == ("bad_time", "since")
        else:
            rows = pl.DataFrame(judge(event, time_unit=declared_unit).rows)
            assert rows["since"].to_list() == [instant], rows["_reason"]


def test_a_row_of_an_incremental_snapshot_has_the_lsn_at_which_its_window_closed() -> None:
    # As Debezium 3.6.3 and PostgreSQL 15 write it.
    source: dict[str, Any] = {"txId": None, "snapshot": "incremental"}

    def read_change(sequence: str | None, **options: Any) -> bytes:
        return change("r", None, {"id": 1, "name": "n"}, at=5, **{**source, "sequence": sequence, **options})

    row = pl.DataFrame(judge(read_change('["22272800","22272801"]')).rows).row(0, named=True)
    assert (row["_op"], row["_lsn"], row["_snapshot"], row["_transaction"]) == (
        "r",
        22272801,
        "incremental",
        None,
    )
    for sequence in (None, "", "[]", "[null]", '["1", "x"]', "{}"):
        assert refuse(read_change(sequence)) == ("missing", "source")
    assert refuse(read_change('["1","2"]', snapshot="false")) == ("missing", "source")


def test_a_snapshot_may_end_without_a_row() -> None:
    row = pl.DataFrame(judge(change("r", 7, snapshot="last")).rows).row(0, named=True)
    assert (row["id"], row["_op"], row["_lsn"], row["_snapshot"]) == (None, "r", 7, "last")
    assert refuse(change("r", 7, snapshot="true")) == ("missing", "after")


def test_columns_that_the_contract_does_not_name_are_counted() -> None:
    verdicts = judge(
        change("c", 1, {"id": 1, "name": "n", "branch": "b"}),
        change("u", 2, {"id": 1, "name": "n", "branch": "b", "balance": "2"}),
    )
    assert (verdicts.good, dict(verdicts.extra)) == (2, {"branch": 2})


def test_a_value_that_was_not_sent_is_null_and_listed() -> None:
    placeholder = "__debezium_unavailable_value"
    # As PostgreSQL 15 and Debezium 3.7 write a text, jsonb, an array of uuids, one of numbers, and bytea.
    row = {
        "id": 1,
        "name": placeholder,
        "notes": placeholder,
        "mood": "ok",
        "tags": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
        "scores": list(placeholder.encode()),
        "photo": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        "later": placeholder,
    }
    for wrapped in (False, True):
        verdicts = judge(change("u", 1, row, wrapped=wrapped))
        stored = pl.DataFrame(verdicts.rows).row(0, named=True)
        assert stored["_unchanged"] == ["name", "notes", "tags", "scores", "photo"]
        assert [stored[name] for name in (*stored["_unchanged"], "mood")] == [None] * 5 + ["ok"]
        assert dict(verdicts.extra) == {"later": 1}
    alone = change("u", 1, {"id": 1, "name": "n", "scores": list(placeholder.encode())}).replace(b", ", b",")
    assert pl.DataFrame(judge(alone).rows)["_unchanged"].to_list() == [["scores"]]
    assert refuse(change("u", 1, {"name": placeholder, "mood": "ok"})) == ("missing", "id")
    assert refuse(json.dumps({"op": "u", "x": placeholder}).encode()) == ("missing", "after")
