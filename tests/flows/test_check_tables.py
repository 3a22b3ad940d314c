"""Audits in builds: what depends on what, and what `headrace check tables` shows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.flows.builds import call
from tests.tiny import write

import headrace
from headrace.cli.main import main
from headrace.config.settings import Settings, load_settings
from headrace.flows.build import build
from headrace.flows.events.drop_table import check_droppable
from headrace.flows.project.check_tables import check_tables
from headrace.flows.project.status import status
from headrace.kernel.errors import CallError, Refused
from headrace.tables.audits.report import failing_table
from headrace.workspace import Workspace

Check = Callable[..., tuple[object, str]]

TABLES = """
import polars as pl
from headrace import references, source, table

sales = source("sales", "data/sales.csv")
stock = source("stock", "data/stock.csv")

@table(reads=sales, audits=[references("product", "products", key="id")])
def sold(rows):
    return rows

@table(reads=stock)
def products(rows):
    return rows

@table(reads=sold)
def revenue(sold):
    return sold.select(pl.col("price").sum())
"""


@pytest.fixture
def sales(tmp_path: Path) -> Settings:
    settings = load_settings(write(tmp_path / "project", TABLES))
    write_sales(settings, 1, 2)
    write_stock(settings, 1, 2)
    return settings


def write_sales(settings: Settings, *products: int) -> None:
    rows = "".join(f"{product},{10 * product}\n" for product in products)
    (settings.root / "data" / "sales.csv").write_text(f"product,price\n{rows}")


def write_stock(settings: Settings, *ids: int) -> None:
    (settings.root / "data" / "stock.csv").write_text("id\n" + "".join(f"{number}\n" for number in ids))


def run(settings: Settings) -> dict[str, str]:
    """Stage → what it did."""
    with Workspace(settings) as workspace:
        return {stage.stage: stage.what for stage in build(workspace).stages}


@pytest.fixture
def check(sales: Settings, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs `headrace check tables`: its exit code and output."""

    def check_tables(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as end:
            main(["check", "tables", *arguments, "--project", str(sales.root)])
        return end.value.code, capsys.readouterr().out

    return check_tables


def products_in(settings: Settings, table: str) -> list[int]:
    return sorted(headrace.project(settings.root).table(table).to_polars()["product"].to_list())


def test_a_refused_table_stays_and_is_shown_with_its_failing_rows(sales: Settings, check: Check) -> None:
    code, output = check()
    assert (code, "sold: not audited yet: headrace build sold" in output) == (0, True)
    assert list(run(sales)) == ["table-products", "table-sold", "table-revenue"]  # the referenced one first
    code, output = check("--json")
    (sold,) = json.loads(output)
    assert (code, sold["table"], sold["state"], sold["fails"], sold["examples"]) == (
        *(0, "sold", "published"),
        *(False, []),
    )
    write_sales(sales, 1, 2, 3)
    with pytest.raises(Refused, match="1 row has a value that is not a key of products, such as 3"):
        run(sales)
    assert products_in(sales, "sold") == [1, 2]
    code, output = check("sold")
    assert code == 1
    assert "references product → products (id)" in output
    assert "FAILED" in output
    assert "readers see the rows of the build before, 1 failing row is kept" in output
    assert output.splitlines()[-2].split()[:2] == ["product", "price"]
    assert output.splitlines()[-1].split()[:2] == ["3", "30"]
    code, output = check("--json")
    (sold,) = json.loads(output)
    assert (code, sold["fails"], [row["product"] for row in sold["examples"]]) == (1, True, [3])
    project = headrace.project(sales.root)
    assert project.failing_rows("sold").to_polars()["price"].to_list() == [30]
    with pytest.raises(CallError, match="no row of table 'products' has failed an audit"):
        project.failing_rows("products")
    write_stock(sales, 1, 2, 3)
    assert list(run(sales)) == ["table-products", "table-sold", "table-revenue"]
    assert check("sold")[0] == 0
    assert project.failing_rows("sold").to_polars().is_empty()
    assert check("nothing")[0] == 2


def show_status(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(["status", "--project", str(settings.root)])
    return capsys.readouterr().out


def test_a_status_shows_what_was_refused_and_what_readers_see(
    sales: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (sales.root / sales.project / "tables.py").read_text()
    dated = text.replace("import references", "import by, references").replace(
        'key="id")])', 'key="id")], partition_by=by("product", parts=4))'
    )
    assert dated != text
    (sales.root / sales.project / "tables.py").write_text(dated)
    write_sales(sales, 1, 7)
    with pytest.raises(Refused):
        run(sales)
    shown = show_status(sales, capsys)
    assert "Readers see no rows of it. To see the failing rows: headrace check tables sold" in shown
    write_sales(sales, 1, 2)
    run(sales)
    assert "refused" not in show_status(sales, capsys)
    write_sales(sales, 1, 2, 3)
    with pytest.raises(Refused):
        run(sales)
    shown = show_status(sales, capsys)
    (partition,) = headrace.project(sales.root).failing_rows("sold").to_polars()["_partition"]
    assert f"An audit refused rows of sold (partition {partition}):" in shown
    assert "references product → products (id): 1 row has a value that is not a key" in shown
    assert "Readers see its rows of" in shown
    assert "headrace build sold" in shown
    assert shown.count("An audit refused rows of") == 1  # not of the table of the failing rows too
    with Workspace(sales) as workspace:
        (table,) = [table for table in status(workspace).tables if table.table == "sold"]
    assert (table.rows, len(table.refused), table.refused_partitions) == (2, 1, (partition,))
    write_stock(sales, 1, 2, 3)
    run(sales)
    assert "refused" not in show_status(sales, capsys)


def test_a_lost_key_fails_the_build_until_it_is_corrected(sales: Settings, check: Check) -> None:
    run(sales)
    write_stock(sales, 1)
    for _ in range(2):
        with pytest.raises(Refused, match="published rows do not hold"):
            run(sales)
    assert check("sold")[0] == 1
    write_sales(sales, 1)
    assert list(run(sales)) == ["table-sold", "table-revenue"]
    assert run(sales) == {}


def test_edited_audits_are_run_and_no_rows_are_made(sales: Settings) -> None:
    run(sales)
    before = headrace.project(sales.root).table("sold").snapshot
    write_stock(sales, 1)
    tables = sales.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace('key="id")', 'key="id", severity="warn")'))
    out = call(sales, "build", "--json")  # in its own process, which imports the edited code
    assert out.returncode == 0, out.stderr
    stages = {stage["stage"]: stage["what"] for stage in json.loads(out.stdout)["stages"]}
    assert stages["table-sold"].startswith(
        "was up to date; the audit warns: references product → products (id)"
    )
    assert headrace.project(sales.root).table("sold").snapshot == before
    assert headrace.project(sales.root).failing_rows("sold").to_polars()["product"].to_list() == [2]


def test_a_referenced_table_is_not_dropped_and_failing_rows_go_with_their_table(sales: Settings) -> None:
    run(sales)
    with Workspace(sales) as workspace, pytest.raises(Refused, match="an audit of sold"):
        check_droppable(workspace, "products")
    write_sales(sales, 3)
    with pytest.raises(Refused):
        run(sales)
    tables = sales.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().partition("@table(reads=sold)")[0])
    out = call(sales, "drop-table", "sold", "--yes")
    assert out.returncode == 0, out.stderr
    with Workspace(sales) as workspace:
        assert failing_table("sold") not in workspace.lake.list_tables()


TABLES_WITHOUT_AUDITS = """
from headrace import source, table

@table(reads=source("rows", "data/rows.csv"))
def plain(rows):
    return rows
"""


def test_a_table_without_audits_has_no_results_to_show(tmp_path: Path) -> None:
    tables = TABLES_WITHOUT_AUDITS
    with Workspace(load_settings(write(tmp_path / "project", tables))) as workspace:
        assert check_tables(workspace) == []
        with pytest.raises(CallError, match="'plain' has nothing to audit"):
            check_tables(workspace, ["plain"])


QUERY = """
import dataframely as dy
from headrace import query, references, rows_like_before

class Stock(dy.Schema):
    id = dy.Int64(primary_key=True)
    shop = dy.Int64()

shops = query("shops", "select id from shops", database="warehouse")
stock = query(
    "stock", "select id, shop from stock", database="warehouse", audit=Stock,
    audits=[references("shop", shops, key="id"), rows_like_before(0.5, severity="warn")],
)
"""


def test_the_rows_of_a_query_are_audited_before_they_are_published(tmp_path: Path) -> None:
    root = write(tmp_path / "project", QUERY)
    with (root / "headrace.toml").open("a") as file:
        file.write(f'[profile.local]\ndatabases = {{ warehouse = "sqlite://{tmp_path / "shop.db"}" }}\n')
    settings = load_settings(root)
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as database:
        database.execute("create table shops (id integer)")
        database.execute("create table stock (id integer, shop integer)")
        database.execute("insert into shops values (1)")
        database.execute("insert into stock values (1, 1), (2, 1), (3, 1), (4, 1)")
        run(settings)
        assert read_column(settings, "stock", "id") == [1, 2, 3, 4]
        with Workspace(settings) as workspace:
            (check,) = check_tables(workspace, ["stock"])
        assert [result.passed for result in check.results] == [True] * 4
        database.execute("insert into stock values (5, 7)")  # no such shop
        with pytest.raises(Refused, match="references"):
            run(settings)
        assert read_column(settings, "stock", "id") == [1, 2, 3, 4]
        assert headrace.project(root).failing_rows("stock").to_polars()["shop"].to_list() == [7]
        database.execute("delete from stock where id > 1")
        assert "the audit warns" in run(settings)["table-stock"]  # a quarter of the rows before
        assert read_column(settings, "stock", "id") == [1]
        database.execute("update shops set id = 2")
        with pytest.raises(Refused, match="published rows do not hold"):
            run(settings)
        database.execute("update shops set id = 1")
        run(settings)
        with Workspace(settings) as workspace:
            assert not check_tables(workspace)[0].fails


def read_column(settings: Settings, table: str, column: str) -> list[int]:
    return sorted(headrace.project(settings.root).table(table).to_polars()[column])
