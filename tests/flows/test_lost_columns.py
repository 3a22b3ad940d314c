"""What reads a column that a table loses is named before a build runs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from tests import tiny

from headrace import lake
from headrace.config.settings import Settings, load_settings
from headrace.flows.build import build
from headrace.flows.build.context import BuildContext
from headrace.flows.build.lost_columns import find_changed_tables
from headrace.kernel.errors import Refused
from headrace.workspace import Workspace

TABLES = """
from datetime import UTC, datetime
import polars as pl
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64
from headrace import Dimension, Fact, Model, TableSource, XGBoost, publish, source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def sales(rows):
    return rows.select(
        at=pl.lit(datetime(2026, 4, 3, tzinfo=UTC)), shop=pl.lit("s"), item="price", paid="price", tax="price"
    )

@table(reads=sales)
def passed(sales):
    return sales

@table(reads=[passed, prices])
def totals(passed, prices):
    return passed.group_by("shop").agg(pl.col("paid").sum(), pl.col("tax").sum())

@table(reads=sales)
def labels(sales):
    return sales.select("shop", event_timestamp="at", target="tax")

shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
paid = FeatureView(
    name="paid", entities=[shop], schema=[Field(name="paid", dtype=Float64)], source=TableSource(passed, "at")
)
model = Model(
    "tiny", labels=labels, target="target", features=FeatureService(name="tiny", features=[paid]),
    trainer=XGBoost(), task="regression",
)
items = Dimension("dim_item", sales, key="item", rows=lambda rows: rows.select("item", "tax").unique())
facts = Fact("fact_sales", sales, time="at", references={"item": items}, columns=["paid"])

@publish(database="warehouse", facts=[facts])
def warehouse():
    return {}
"""


READERS_OF_TAX = ("table totals (", "table labels (", "dim_item of publication warehouse (")
READERS_OF_PAID = (
    "table totals (",
    "feature view paid of model tiny (",
    "fact_sales of publication warehouse (",
)
TAX = ', tax="price"'


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Settings]:
    """The project, whose four tables are built."""
    settings = load_settings(tiny.write(tmp_path / "project", TABLES))
    build(Workspace(settings), ["totals", "labels"])
    yield settings
    tiny.forget()


def edit(settings: Settings, *edits: tuple[str, str]) -> Workspace:
    tiny.edit(settings.root, *edits)
    return Workspace(load_settings(settings.root))


def state(settings: Settings) -> list[object]:
    """The tables' snapshots, and the files that a build writes."""
    tables = [
        lake.open(settings).table(name).current_snapshot() for name in ("sales", "passed", "totals", "labels")
    ]
    files = [settings.root / name for name in ("dvc.yaml", "dvc.lock", "pointers/code.json")]
    return [*tables, *(file.read_text() for file in files)]


def test_readers_of_dropped_and_renamed_columns_are_named_and_nothing_is_built(project: Settings) -> None:
    before = state(project)
    workspace = edit(project, (TAX, ""))
    for arguments in ({"dry_run": True}, {}, {"targets": ["sales"]}):
        with pytest.raises(Refused) as refused:
            build(workspace, **arguments)
        message = refused.value.what
        lost = "column 'tax' of table passed is not one of its columns any more, and is read by table totals ("
        assert lost in message
        assert all(reader in message for reader in READERS_OF_TAX)
        assert "paid" not in message
        assert "table sales (" in str(refused.value.where)
    workspace = edit(
        project,
        ('paid="price"', f'paid="price"{TAX}'),
        ("reads=prices)\ndef sales", 'reads=prices, renames={"paid": "net"})\ndef sales'),
    )
    with pytest.raises(Refused) as refused:
        build(workspace)
    assert "column 'paid' of table sales is renamed to 'net'" in refused.value.what
    assert all(reader in refused.value.what for reader in READERS_OF_PAID)
    assert state(project) == before


def test_a_column_goes_if_its_readers_were_edited_with_it(project: Settings) -> None:
    readers = [(', pl.col("tax").sum()', ""), ('target="tax"', 'target="paid"'), ('"item", "tax"', '"item"')]
    workspace = edit(project, (TAX, ""), *readers)
    build(workspace, ["totals", "labels"])
    assert "tax" not in workspace.lake.table("passed").schema().names
    assert workspace.lake.table("totals").schema().names == ["shop", "paid"]


VIEWS = """
    return {
        "taxes": "select sum(tax) as tax from fact_sales",
        "taxed": "select count(*) as days from taxes where tax > 0",  # reads the column through another view
        "everything": "select * from fact_sales join dim_item using (item_key)",
        "named_alike": "select 1 as tax, sum(paid) as paid from fact_sales -- of tax",
        "broken": "select nothing from fact_sales",
    }
"""


def test_views_that_read_lost_columns_are_named_and_nothing_is_built(
    project: Settings, empty_database: str
) -> None:
    with (project.root / "headrace.toml").open("a") as file:
        file.write(f'[profile.local]\ndatabases = {{ warehouse = "{empty_database}" }}\n')
    before = state(project)
    readers = [(', pl.col("tax").sum()', ""), ('target="tax"', 'target="paid"')]
    whole_fact = ('references={"item": items}, columns=["paid"]', 'references={"item": items}')
    workspace = edit(
        project,
        (TAX, ""),
        *readers,
        whole_fact,
        ('"item", "tax"', '"item"'),
        ("    return {}\n", VIEWS),
    )
    for arguments in ({"dry_run": True}, {}):
        with pytest.raises(Refused) as refused:
            build(workspace, **arguments)
        views = (
            "is read by view taxes of publication warehouse ({0}), view taxed of publication warehouse ({0})"
        )
        place = project.root / "tiny" / "tables.py"
        line = f"column 'tax' of table sales is not one of its columns any more, and {views}"
        assert re.sub(rf"{re.escape(str(place))}:\d+|tiny/tables.py:\d+", "{0}", refused.value.what) == line
    assert state(project) == before
    with psycopg.connect(empty_database) as connection:
        schemas = "select count(*) from pg_namespace where nspname like 'warehouse%'"
        assert connection.execute(schemas).fetchone() == (0,)
    workspace = edit(
        project,
        ("sum(tax) as tax from", "sum(paid) as tax from"),
        ('        "broken": "select nothing from fact_sales",\n', ""),
    )
    build(workspace, ["warehouse", "totals", "labels"])
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("select days from warehouse.taxed").fetchone() == (1,)


QUERY = """
from headrace import query, table

prices = query("prices", "select id, price from prices", database="old")

@table(reads=prices)
def spent(rows):
    return rows.select(pl.col("price").sum())
"""


def test_what_reads_a_column_that_a_query_loses_is_named(tmp_path: Path) -> None:
    root = tiny.write(tmp_path / "project", f"import polars as pl\n{QUERY}")
    with (root / "headrace.toml").open("a") as file:
        file.write('[profile.local]\ndatabases = { old = "sqlite:old.db" }\n')
    with closing(sqlite3.connect(root / "old.db")) as connection, connection:
        connection.executescript("create table prices (id, price); insert into prices values (1, 3), (2, 4)")
    settings = load_settings(root)
    build(Workspace(settings))
    workspace = edit(settings, ("select id, price from", "select id, price as cost from"))
    with pytest.raises(Refused, match=r"column 'price' of table prices is not .* is read by table spent"):
        build(workspace)
    workspace = edit(settings, ('pl.col("price")', 'pl.col("cost")'))
    build(workspace)
    assert workspace.lake.table("spent").scan().collect().rows() == [(7,)]
    tiny.forget()


def test_a_rename_alone_makes_no_row_of_its_table(project: Settings) -> None:
    workspace = edit(
        project,
        ("reads=prices)\ndef sales", 'reads=prices, renames={"tax": "vat"})\ndef sales'),
        ('pl.col("tax")', 'pl.col("vat")'),
        ('target="tax"', 'target="vat"'),
        ('"item", "tax"', '"item", "vat"'),
    )
    reports = {report.stage: report.what for report in build(workspace, ["totals", "labels"]).stages}
    assert reports["table-sales"] == "column 'tax' is 'vat' now"
    assert reports["table-passed"] == "made all of it: sales changed"
    assert workspace.lake.table("totals").schema().names == ["shop", "paid", "vat"]
    assert build(workspace, ["totals", "labels"]).stages == ()
    assert find_changed_tables(BuildContext(workspace)) == set()
    workspace = edit(project, (', renames={"tax": "vat"}', ""))
    assert find_changed_tables(BuildContext(workspace)) == {"sales"}
