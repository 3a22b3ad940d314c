"""A CSV file is read as Python's csv module reads it, or refused with its row."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.kernel.errors import ProjectError
from headrace.tables import csv_file
from headrace.tables.csv_file import check_csv

ONE_FOLDER = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CELL = st.text(st.sampled_from('aé",\n\r 0;\t'), max_size=4)


def read(path: Path, content: bytes, encoding: str = "utf-8") -> tuple[list[str], list[list[str]]]:
    """The header and the rows, each cell as text."""
    path.write_bytes(content)
    checked = check_csv(path, encoding)
    rows = checked.scan().collect()
    assert rows.height == checked.rows
    assert checked.scan().collect(engine="streaming").equals(rows)
    assert rows.columns == list(checked.columns)
    return rows.columns, [["" if cell is None else cell for cell in row] for row in rows.rows()]


def oracle(content: bytes) -> list[list[str]]:
    """What Python's csv module reads, without lines that hold no cell."""
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    return [row for row in rows if row]


@ONE_FOLDER
@given(
    rows=st.integers(1, 3).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=6)
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    last=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]),
)
def test_a_file_of_a_csv_writer_is_read(
    tmp_path: Path, rows: list[list[str]], end: str, quoting: int, last: bool, encoding: str
) -> None:
    width = len(rows[0]) if rows else 2
    header = ['a"b', "c,d", "e f"][:width]
    if any("\r" in cell or "\n" in cell for row in rows for cell in row):
        quoting = csv.QUOTE_ALL  # csv.writer leaves a line end that is not its own without quotes
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([header, *rows])  # type: ignore[arg-type]
    written = text.getvalue() if last else text.getvalue().removesuffix(end)
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read(tmp_path / "x.csv", written.encode(encoding), declared) == (header, rows)


@ONE_FOLDER
@given(body=st.text(st.sampled_from('ab",\n\r'), max_size=14), header=st.sampled_from(["x,y", "x", 'x,"y"']))
@example(body='"a"b,1\n', header="x,y")
@example(body="a,b\n\nc,d\n\n\n", header="x,y")
@example(body="a,b\rc,d", header="x,y")
def test_any_file_is_read_as_csv_reads_it_or_refused(tmp_path: Path, body: str, header: str) -> None:
    content = f"{header}\n{body}".encode()
    try:
        columns, rows = read(tmp_path / "x.csv", content)
    except ProjectError as error:
        refused_at = str(error.where)
    else:
        refused_at = ""
    if refused_at:
        assert ", row " in refused_at
        return
    expected = oracle(content)
    if len(columns) == 1:  # there an empty line is a row without a value
        rows = [row for row in rows if row != [""]]
        expected = [row for row in expected if row != [""]]
    assert [columns, *rows] == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_where_the_bytes_are_cut_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    content = '\ufeff"a""x",bé\r\n1,"2\r\n,"\r\n\r\n"",""""\r\né,4'.encode()
    whole = read(tmp_path / "x.csv", content)
    monkeypatch.setattr(csv_file, "_CHUNK", chunk)
    assert (
        read(tmp_path / "x.csv", content) == whole == (['a"x', "bé"], [["1", "2\r\n,"], ["", '"'], ["é", "4"]])
    )
    for wrong, row in ((b"a,b\n1,2\n1\n", 3), (b'a,b\n1,2\n"1,2\n3,4\n', 3), (b"a,b\n1,2\n1,\xe9\n", 3)):
        with pytest.raises(ProjectError) as refused:
            read(tmp_path / "x.csv", wrong)
        assert str(refused.value.where).endswith(f"x.csv, row {row}")


@pytest.mark.parametrize(
    ("content", "row", "words"),
    [
        (b"", None, "the file is empty"),
        (b"\n", 1, "the header names no column"),
        (b"id,id\n1,2\n", 1, "the header names the column 'id' twice"),
        (b"a,b\n1,2\n3\n", 3, "the row has 1 cell, and the header has 2"),
        (b"at,s\n1,Cafe, black\n", 2, "the row has 3 cells, and the header has 2"),
        (b'a,b\n1,2\n3,"open\n4,5\n', 3, "a quote opens in this row and is never closed"),
        (b'a,b\n1,2\n3,"open\n4,"5"\n', 3, "text follows the closing quote of a cell"),
        (b'a,b\n1,5" pipe\n', 2, "a quote is inside an unquoted cell"),
        ("Prénom,b\n1,2\n".encode("latin-1"), 1, "byte e9 at offset 2 is not valid UTF-8"),
        (b"a,b\n" + b"1,2\n" * 500 + b"3,\xe9\n", 502, "byte e9 at offset 2,006 is not valid UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), 1, "the file is UTF-16, not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), 1, "the row has a zero byte"),
        (b"a,b\r1,2\n3,4\r", 2, "the row has another line end than the first row"),
        (b"a,b\n1,2\r3,4\n", 2, "the row has another line end than the first row"),
    ],
)
def test_what_cannot_be_read_correctly_is_refused(
    tmp_path: Path, content: bytes, row: int | None, words: str
) -> None:
    with pytest.raises(ProjectError, match=words) as refused:
        read(tmp_path / "x.csv", content)
    assert refused.value.where == f"{tmp_path}/x.csv" + ("" if row is None else f", row {row}")


def test_a_file_that_is_not_of_its_declared_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="byte 81 at offset 6 is not valid cp1252") as refused:
        read(tmp_path / "x.csv", b"a,b\n1,\x81\n", "cp1252")
    assert refused.value.where == f"{tmp_path}/x.csv, line 2"


def test_an_empty_cell_is_null_and_quotes_hold_an_empty_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n"",1\n,2\n')
    assert check_csv(path, "utf-8").scan().collect()["a"].to_list() == ["", None]


def test_long_quoted_cells_are_read_whole(tmp_path: Path) -> None:
    """Polars splits a file among its threads; cells with line ends must not be split with it."""
    rows = [[str(n), f'"{n}"\n,' * (n % 700)] for n in range(3_000)]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["n", "long"], *rows])
    assert read(tmp_path / "x.csv", text.getvalue().encode()) == (["n", "long"], rows)
