"""A source's files as one frame: which they are, and how their columns go together."""

from __future__ import annotations

import csv
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from headrace.declare.place import Place
from headrace.declare.source import Source
from headrace.kernel.errors import ProjectError
from headrace.projects.project import Project
from headrace.tables.files import digest_of, read_files

HERE = Place("tables.py", 1)


def declare(project: Project, path: str = "data/more", **options: Any) -> Source:
    return Source("more", path, HERE, **options)


@pytest.fixture
def folder(project: Project) -> Path:
    folder = project.settings.root / "data" / "more"
    folder.mkdir()
    return folder


def test_the_name_of_a_file_is_not_a_pattern(project: Project, folder: Path) -> None:
    (folder / "c[1].csv").write_text("x\n100\n")
    (folder / "c1.csv").write_text("x\n1\n")
    (folder / "p*.csv").write_text("x\n7\n")
    assert read_files(project, declare(project)).collect()["x"].to_list() == [1, 100, 7]
    assert read_files(project, declare(project, "data/more/c[1].csv")).collect()["x"].to_list() == [100]
    for file in folder.iterdir():
        pl.read_csv(file, glob=False).write_parquet(file.with_suffix(".parquet"))
        file.unlink()
    assert read_files(project, declare(project)).collect()["x"].to_list() == [1, 100, 7]
    assert read_files(project, declare(project, "data/more/p*.parquet")).collect()["x"].to_list() == [7]


def test_files_in_hidden_folders_are_left_out(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text("x\n1\n")
    digest = digest_of(project, declare(project))
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "a.csv").write_text("x\n1\n")
    (folder / "_old").mkdir()
    (folder / "_old" / "a.csv").write_text("x\n1\n")
    assert digest_of(project, declare(project)) == digest
    assert read_files(project, declare(project)).collect().height == 1


def test_csv_columns_are_put_together_by_name(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text("id,v\n1,2\n")
    (folder / "b.csv").write_text("id,v\n")
    (folder / "c.csv").write_text("v,id,note\n0.5,3,x\n")
    (folder / "d.csv").write_text("id,v\n4,\n")
    rows = read_files(project, declare(project)).collect()
    assert dict(rows.schema) == {"id": pl.Int64, "v": pl.Float64, "note": pl.String}
    assert rows.rows() == [(1, 2.0, None), (3, 0.5, "x"), (4, None, None)]


def test_a_declared_type_holds_in_all_files(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_bytes("Prénom,code\nRené,12\n".encode("latin-1"))
    (folder / "b.csv").write_bytes("Prénom\nZoë\n".encode("latin-1"))
    latin = declare(project, schema={"code": pl.String()}, encoding="iso8859-1")
    assert read_files(project, latin).collect().to_dict(as_series=False) == {
        "Prénom": ["René", "Zoë"],
        "code": ["12", None],
    }
    with pytest.raises(ProjectError, match="schema= names the column 'kode', which no file"):
        read_files(project, declare(project, schema={"kode": pl.String()}, encoding="iso8859-1"))
    with pytest.raises(ProjectError, match=r"'René' is not a valid value") as refused:
        read_files(project, declare(project, schema={"Prénom": pl.Int64()}, encoding="iso8859-1"))
    assert refused.value.where == f"{folder}/a.csv, row 2"


def test_a_null_value_is_null_in_every_column_and_only_as_a_whole_cell(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text('id,price,name\nNA,1.5,NA\n2,n/a,NAB\n3,,""\n4,"NA","n/a"\n')
    declared = declare(project, null_values=("NA", "n/a"))
    rows = read_files(project, declared).collect()
    assert dict(rows.schema) == {"id": pl.Int64, "price": pl.Float64, "name": pl.String}
    assert rows.rows() == [(None, 1.5, None), (2, None, "NAB"), (3, None, ""), (4, None, None)]
    typed = declare(project, schema={"price": pl.Float64()}, null_values=("NA", "n/a"))
    assert read_files(project, typed).collect()["price"].to_list() == [1.5, None, None, None]
    with pytest.raises(ProjectError, match="'n/a' is not a valid value") as refused:
        read_files(project, declare(project, schema={"price": pl.Float64()}, null_values=("NA",)))
    assert refused.value.where == f"{folder}/a.csv, row 3"
    assert "null_values=['n/a']" in str(refused.value.remedy)


def test_blank_cells_are_null_except_in_text(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text("id,total,note,seen\n1, , ,\t\n2,108.15,x,2024-01-01\n")
    expected = {"id": [1, 2], "total": [None, 108.15], "note": [" ", "x"], "seen": [None, date(2024, 1, 1)]}
    assert read_files(project, declare(project)).collect().to_dict(as_series=False) == expected
    typed = declare(project, schema={"total": pl.Float64(), "note": pl.String(), "seen": pl.Date()})
    assert read_files(project, typed).collect().to_dict(as_series=False) == expected


def test_a_renamed_column_is_named_with_one_like_it(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text("id,Total_Charges\n1,5\n")
    with pytest.raises(
        ProjectError, match="the column 'TotalCharges', which no file of source 'more'"
    ) as refused:
        read_files(project, declare(project, schema={"TotalCharges": pl.Float64()}))
    assert refused.value.where == "tables.py:1: data/more"
    assert str(refused.value.remedy).startswith(
        "Is it 'Total_Charges' there? The files have the columns id, Total"
    )


def test_parquet_columns_are_put_together_by_name(project: Project, folder: Path) -> None:
    pl.DataFrame({"id": [1], "v": [1.5]}, schema={"id": pl.Int32, "v": pl.Float32}).write_parquet(
        folder / "a.parquet"
    )
    pl.DataFrame({"v": [None], "id": [2**40]}, schema={"v": pl.Null, "id": pl.Int64}).write_parquet(
        folder / "b.parquet"
    )
    pl.DataFrame({"id": [3], "kind": ["x"]}, schema_overrides={"kind": pl.Categorical}).write_parquet(
        folder / "c.parquet"
    )
    pl.DataFrame({"kind": ["y"]}).write_parquet(folder / "d.parquet")
    rows = read_files(project, declare(project)).collect()
    assert dict(rows.schema) == {"id": pl.Int64, "v": pl.Float32, "kind": pl.String}
    assert rows.rows() == [(1, 1.5, None), (2**40, None, None), (3, None, "x"), (None, None, "y")]


def test_a_filter_on_parquet_that_may_raise_sees_the_rows_alone(project: Project, folder: Path) -> None:
    """Unless told otherwise, Polars gives it empty texts for nulls, and bounds that a writer has shortened."""
    rows = pl.DataFrame({"amount": ["12.5", None, "1"], "note": ["x" * 100 + "7", None, "x" * 100 + "8"]})
    rows.write_parquet(folder / "a.parquet")
    read = read_files(project, declare(project))
    for condition in (pl.col("amount").cast(pl.Float64) > 2, pl.col("note").str.slice(100).cast(pl.Int64) == 7):
        assert read.filter(condition).collect().rows() == rows[:1].rows()


def test_parquet_types_that_do_not_go_together_are_named(project: Project, folder: Path) -> None:
    pl.DataFrame({"id": [1]}).write_parquet(folder / "a.parquet")
    pl.DataFrame({"id": [1.5]}).write_parquet(folder / "b.parquet")
    with pytest.raises(ProjectError, match=r"is Float64 here, and Int64 in .*a\.parquet") as refused:
        read_files(project, declare(project))
    assert refused.value.where == str(folder / "b.parquet")
    rows = read_files(project, declare(project, schema={"id": pl.Float64()})).collect()
    assert rows["id"].to_list() == [1.0, 1.5]
    with pytest.raises(
        ProjectError, match="column 'id' is Float64 here, and Int64 in the schema= of its source"
    ):
        read_files(project, declare(project, schema={"id": pl.Int64()}))


def test_instants_of_parquet_files_keep_their_zone(project: Project, folder: Path) -> None:
    stamps = pl.Series("at", [datetime(2024, 1, 1)], pl.Datetime("ns", "UTC"))
    pl.DataFrame([stamps]).write_parquet(folder / "a.parquet")
    typed = read_files(project, declare(project, schema={"at": pl.Datetime("us", "UTC")}))
    assert typed.collect_schema()["at"] == pl.Datetime("us", "UTC")
    with pytest.raises(ProjectError, match="column 'at' is Datetime"):
        read_files(project, declare(project, schema={"at": pl.Datetime("us")}))


def test_a_file_that_is_not_parquet_is_named(project: Project, folder: Path) -> None:
    (folder / "a.parquet").write_bytes(b"id\n1\n")
    with pytest.raises(ProjectError, match="the file cannot be read") as refused:
        read_files(project, declare(project))
    assert refused.value.where == str(folder / "a.parquet")


def test_cells_are_divided_by_the_declared_delimiter_and_numbers_by_their_decimal(
    project: Project, folder: Path
) -> None:
    text = 'id;price;note;code\n1;1,5;"a;b";0870\n2;-0,25;1,5 m;12\n3; ;;1.000\n'
    (folder / "a.csv").write_text(text)
    rows = read_files(project, declare(project, delimiter=";", decimal=",")).collect()
    assert dict(rows.schema) == {"id": pl.Int64, "price": pl.Float64, "note": pl.String, "code": pl.String}
    oracle = list(csv.DictReader(text.splitlines(), delimiter=";"))
    assert rows["note"].to_list() == [row["note"] or None for row in oracle]
    assert rows["code"].to_list() == [row["code"] for row in oracle]
    expected = [float(row["price"].replace(",", ".")) if row["price"].strip() else None for row in oracle]
    assert rows["price"].to_list() == expected
    types = {"price": pl.Decimal(9, 2), "code": pl.Float64()}
    with pytest.raises(ProjectError, match=r"'1\.000' is not a valid value") as refused:
        read_files(project, declare(project, delimiter=";", decimal=",", schema=types))
    assert refused.value.where == f"{folder}/a.csv, row 4"
    typed = read_files(
        project, declare(project, delimiter=";", decimal=",", schema={"price": pl.Decimal(9, 2)})
    )
    assert typed.collect()["price"].to_list() == [Decimal("1.5"), Decimal("-0.25"), None]


@pytest.mark.parametrize("delimiter", ["\t", "|", ":", " "])
def test_any_ascii_character_may_divide_cells(project: Project, folder: Path, delimiter: str) -> None:
    (folder / "a.csv").write_text(f'a{delimiter}b\n1{delimiter}"x{delimiter}\ny"\n')
    rows = read_files(project, declare(project, delimiter=delimiter)).collect()
    assert rows.rows() == [(1, f"x{delimiter}\ny")]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_file_with_another_delimiter_is_not_read_as_one_column(
    project: Project, folder: Path, delimiter: str
) -> None:
    (folder / "a.csv").write_text(f"id{delimiter}v\n1{delimiter}2\n")
    with pytest.raises(ProjectError, match="the header is one cell that holds") as refused:
        read_files(project, declare(project))
    assert f"delimiter={delimiter!r}" in str(refused.value.remedy)
    (folder / "a.csv").write_text(f'"id{delimiter}v"\n1\n')
    assert read_files(project, declare(project)).collect().columns == [f"id{delimiter}v"]


def test_a_column_that_is_text_in_one_csv_file_alone_is_refused(project: Project, folder: Path) -> None:
    (folder / "a.csv").write_text("code,v\n870,1\n")
    (folder / "b.csv").write_text("v\n2\n")
    (folder / "c.csv").write_text("code,v\n0870,1\n")
    with pytest.raises(
        ProjectError, match=f"column 'code' is String here, and Int64 in {folder}/a.csv"
    ) as error:
        read_files(project, declare(project))
    assert error.value.where == f"{folder}/c.csv"
    rows = read_files(project, declare(project, schema={"code": pl.String()})).collect()
    assert rows["code"].to_list() == ["870", None, "0870"]


@pytest.mark.parametrize("without_cells", ["code,v\n", "code,v\n,\n"])
@pytest.mark.parametrize("name", ["a.csv", "z.csv"])
def test_a_csv_file_without_cells_decides_no_type(
    project: Project, folder: Path, name: str, without_cells: str
) -> None:
    (folder / "m.csv").write_text("code,v\nx,1\n")
    (folder / name).write_text(without_cells)
    rows = read_files(project, declare(project)).collect()
    assert dict(rows.schema) == {"code": pl.String, "v": pl.Int64}
    assert rows.drop_nulls().rows() == [("x", 1)]


@pytest.mark.parametrize(
    ("cells", "odd", "row"),
    [
        (["1", "2", "n/a", "4"], "n/a", 4),
        (["1.5", "", "-", "2.5", "3"], "-", 4),
        (["2026-04-03", "2026-04-04", "03/04/2026"], "03/04/2026", 4),
        (["1", "1e400", "2"], "1e400", 3),
    ],
)
def test_a_cell_that_makes_a_column_text_is_named(
    project: Project, folder: Path, caplog: pytest.LogCaptureFixture, cells: list[str], odd: str, row: int
) -> None:
    (folder / "a.csv").write_text("v,w\n" + "".join(f"{cell},x\n" for cell in cells))
    rows = read_files(project, declare(project)).collect()
    assert rows["v"].to_list() == [cell or None for cell in cells]
    (warning,) = caplog.messages
    assert warning.startswith(f"{folder}/a.csv, row {row}: column 'v' is text because of {odd!r}")


def test_glob_chooses_files_by_their_names(project: Project, folder: Path) -> None:
    (folder / "2026").mkdir()
    (folder / "2026" / "orders-1.csv").write_text("x\n1\n")
    (folder / "orders-2.csv").write_text("x\n2\n")
    (folder / "readme.txt").write_text("not a table")
    chosen = declare(project, glob="orders-*.csv")
    assert read_files(project, chosen).collect()["x"].sort().to_list() == [1, 2]
    digest = digest_of(project, chosen)
    (folder / "readme.txt").write_text("changed")
    assert digest_of(project, chosen) == digest
    with pytest.raises(ProjectError, match=r"holds \.csv, \.txt") as refused:
        read_files(project, declare(project))
    assert "glob=" in str(refused.value.remedy)
    with pytest.raises(ProjectError, match=r"whose names match 'x\*'"):
        read_files(project, declare(project, glob="x*"))
