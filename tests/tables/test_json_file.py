"""Files of JSON objects, one a line or in an array, beside what Python's json and decimal read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.declare.place import Place
from headrace.declare.source import Source
from headrace.kernel.errors import ProjectError
from headrace.tables.formats import FORMATS

HERE = Place("tables.py", 1)


def read(*files: Path, **options: Any) -> pl.DataFrame:
    source = Source("more", "data/more", HERE, **options)
    return pl.concat(FORMATS[files[0].suffix](source, files)).collect(engine="streaming")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


ROWS = [
    {"id": 1, "name": "0870", "ok": True, "v": 1},
    {"v": 0.5, "id": 2, "extra": None},
    {"id": -9007199254740993, "name": "", "v": 1e-05, "ok": False, "extra": 'line\nend \u2028 ☃ "'},
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("end", [".ndjson", ".jsonl", ".json"])
def test_values_have_the_types_of_their_file(tmp_path: Path, end: str, encoding: str) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    text = f"[{','.join(lines)}]" if end == ".json" else "\n\n".join(lines) + "\r\n"
    rows = read(write(tmp_path, f"a{end}", text.encode(encoding)), encoding=encoding)
    assert dict(rows.schema) == {
        "id": pl.Int64,
        "name": pl.String,
        "ok": pl.Boolean,
        "v": pl.Float64,
        "extra": pl.String,
    }
    assert rows.rows() == [tuple(row.get(name) for name in ("id", "name", "ok", "v", "extra")) for row in ROWS]


def test_objects_are_put_together_by_name_over_files(tmp_path: Path) -> None:
    first = write(tmp_path, "a.ndjson", '{"id":1,"v":2}\n')
    second = write(tmp_path, "b.ndjson", '{"v":0.25,"w":null}\n')
    rows = read(first, second)
    assert dict(rows.schema) == {"id": pl.Int64, "v": pl.Float64, "w": pl.String}
    assert rows.rows() == [(1, 2.0, None), (None, 0.25, None)]


def test_a_declared_type_is_read_from_the_text_of_a_value(tmp_path: Path) -> None:
    line = '{"price":12345678901234567.89,"code":870,"day":"2026-04-03","at":"2026-04-03T10:00:00+02:00",'
    line += '"tags":[1.50,"é",{"a":null}],"big":1e400}'
    types = {
        "price": pl.Decimal(20, 2),
        "code": pl.String(),
        "day": pl.Date(),
        "at": pl.Datetime("us", "UTC"),
        "tags": pl.String(),
        "big": pl.String(),
    }
    assert read(write(tmp_path, "a.ndjson", line), schema=types).rows() == [
        (
            Decimal("12345678901234567.89"),
            "870",
            date(2026, 4, 3),
            datetime(2026, 4, 3, 8, tzinfo=UTC),
            '[1.50,"é",{"a":null}]',
            "1e400",
        )
    ]


EXACT = ["1e-18", "-1.5E+3", "12345678901234567890.123456789012345678", "1000e-21", "0.0e-30", "1.10"]


def test_a_declared_decimal_reads_numbers_with_an_exponent_exactly(tmp_path: Path) -> None:
    lines = "".join(f'{{"v":{number}}}\n' for number in EXACT)
    rows = read(write(tmp_path, "a.ndjson", lines), schema={"v": pl.Decimal(38, 18)})
    assert rows["v"].to_list() == [Decimal(number) for number in EXACT]


@pytest.mark.parametrize("number", ["1e-19", "1.5e-18", "1e20", "1e-999999999", "1e999999999", "1e9999999999"])
def test_a_number_that_a_declared_decimal_does_not_hold_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(ProjectError, match="Decimal"):
        read(write(tmp_path, "a.ndjson", f'{{"v":{number}}}'), schema={"v": pl.Decimal(38, 18)})


def test_texts_that_mean_no_value_are_null(tmp_path: Path) -> None:
    file = write(tmp_path, "a.ndjson", '{"v":"n/a"}\n{"v":1.5}\n')
    assert read(file, null_values=("n/a",))["v"].to_list() == [None, 1.5]


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        ('{"a":1}\n{"a":"x"}\n', 2, "column 'a' is a text here, and a whole number in .*row 1"),
        ('{"a":true}\n\n{"a":1}\n', 3, "column 'a' is a whole number here, and a boolean in .*row 1"),
        ('{"a":9007199254740993}\n{"a":0.5}\n', 2, "a fraction here, and a whole number of more than 53 bits"),
        ('{"a":1}\n{"a":9007199254740993}\n{"a":0.5}\n', 3, "a fraction here, and a whole number of more than"),
        ('{"a":1e400}\n', 1, "column 'a' has a number that 64 bits do not hold"),
        ('{"a":1e-400}\n', 1, "column 'a' has a number that 64 bits do not hold"),
        ('{"a":9223372036854775808}\n', 1, "column 'a' has a number that 64 bits do not hold"),
        ('{"a":0.12345678901234567890}\n', 1, "column 'a' has a number that 64 bits do not hold"),
        ('{"a":[1]}\n', 1, "column 'a' has a list or an object"),
        ('{"a":1}\n[1]\n', 2, r"\[1\] is not an object"),
        ('{"a":1}\n{"a":1\n', 2, "it is not valid JSON"),
        ('{"a":1} {"a":2}\n', 1, "it is not valid JSON: Extra data"),
        ('{"a":1,"a":2}\n', 1, "the key 'a' is there twice"),
        ('{"a":NaN}\n', 1, "NaN is not a number of JSON"),
        ('{"a":"\\ud800"}\n', 1, "surrogates not allowed"),
        (b'{"a":1}\n{"a":"\xff"}\n', 2, "byte ff is not valid utf-8"),
        ("\n\n", 1, "the file has no values"),
        ('{"a":' + "[" * 100_000 + "\n", 1, "nested too deeply|not valid JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_with_its_row(
    tmp_path: Path, content: str | bytes, row: int, message: str
) -> None:
    with pytest.raises(ProjectError, match=message) as refused:
        read(write(tmp_path, "a.ndjson", content))
    assert refused.value.where == f"{tmp_path}/a.ndjson, row {row}"


def test_a_json_file_that_is_not_an_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="not an array of objects"):
        read(write(tmp_path, "a.json", '{"a":1}'))
    with pytest.raises(ProjectError, match="not valid JSON") as refused:
        read(write(tmp_path, "a.json", '[{"a":1},\n{"a":2}\n'))
    assert refused.value.where == f"{tmp_path}/a.json, row 3"


def test_a_value_that_is_not_of_its_declared_type_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "a.ndjson", '{"a":1}\n\n{"a":"03/04/2026"}\n')
    with pytest.raises(ProjectError, match="declared as Int64, and '03/04/2026' is not a valid value") as error:
        read(file, schema={"a": pl.Int64()})
    assert error.value.where == f"{file}, row 3"


def test_a_type_conflict_is_named_with_both_files(tmp_path: Path) -> None:
    first = write(tmp_path, "a.ndjson", '{"a":1}\n')
    second = write(tmp_path, "b.ndjson", '{"b":1}\n{"a":"x"}\n')
    with pytest.raises(ProjectError, match=f"here, and a whole number in {first}, row 1") as refused:
        read(first, second)
    assert refused.value.where == f"{second}, row 2"


def test_more_rows_than_one_batch_are_read_in_their_order(tmp_path: Path) -> None:
    file = write(tmp_path, "a.ndjson", "".join(f'{{"a":{n}}}\n' for n in range(45_000)))
    assert read(file)["a"].to_list() == list(range(45_000))


VALUES = st.none() | st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans()


@given(st.lists(st.dictionaries(st.sampled_from("ab"), VALUES), min_size=1, max_size=5))
def test_any_values_are_read_as_json_reads_them_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    """The oracle: json.loads of each line; a column of one Python type has its values, any other is refused."""
    folder = tmp_path_factory.mktemp("json")
    file = write(folder, "a.ndjson", "".join(json.dumps(row) + "\n" for row in rows))
    names = {name for row in rows for name in row}
    types = [{type(row[name]) for row in rows if row.get(name) is not None} for name in names]
    if not types or any(len(of_column) > 1 for of_column in types):
        with pytest.raises(ProjectError):
            read(file)
    else:
        result = read(file)
        assert result.to_dicts() == [{name: row.get(name) for name in result.columns} for row in rows]
