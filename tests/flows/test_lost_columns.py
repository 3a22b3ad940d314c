"""What reads a column that a table loses is named before a build runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
