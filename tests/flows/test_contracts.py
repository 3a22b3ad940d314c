"""The verb `check contracts`: the changes since the stored contract, and the tables that they affect."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import tiny

from headrace import lake as lakes
from headrace.cli.main import main
from headrace.config.settings import Settings, load_settings
from headrace.events.ingest.adoption import adopt_contract
from headrace.flows.events.contracts import Dependent, check_contracts
from headrace.projects.project import load_project
from headrace.workspace import Workspace

CLICKS = """
from datetime import datetime
import polars as pl
from headrace import Struct, event, table

@event(topic="clicks", time="at")
class Click(Struct):
    at: datetime
    user: int
    page: str
    note: str | None = None

PAGE = "page"

def select_columns(clicks):
    return clicks.select("at", "user", PAGE)

@table(reads=Click)
def pages(clicks):
    return select_columns(clicks)

@table(reads=pages)
def counted(pages):
    return pages.select(pl.len())

@table(reads=Click)
def users(clicks):
    return clicks.select(pl.col("user"))
"""


@pytest.fixture
def clicks(tmp_path: Path) -> Settings:
    """A project whose contract of clicks is stored with its table."""
    settings = load_settings(tiny.write(tmp_path / "project", CLICKS))
    adopt_contract(load_project(settings).contract("clicks"), lakes.open(settings))
    return settings


def edit(settings: Settings, *edits: tuple[str, str]) -> Settings:
    """Replaces texts in the project's tables.py."""
    tiny.edit(settings.root, *edits)
    return settings


def run_main(*arguments: str) -> object:
    """Runs the command line; returns its exit code."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code


def test_a_removed_field_breaks_the_tables_that_name_it(clicks: Settings) -> None:
    (check,) = check_contracts(Workspace(clicks))
    assert (check.outcome, check.stored_version, check.effects, check.breaks) == ("unchanged", 1, (), False)
    removal = ("    page: str\n", "")
    (check,) = check_contracts(Workspace(edit(clicks, removal)))
    assert (check.outcome, check.breaks) == ("refused", True)
    (effect,) = check.effects
    assert (effect.change.level, effect.change.field, effect.affects_producers) == ("breaks", "page", False)
    assert effect.dependents == (Dependent("table", "pages"), Dependent("table", "counted", "pages"))
    assert "version=2" in str(check.remedy)
    (check,) = check_contracts(Workspace(edit(clicks, ('time="at")', 'time="at", version=2)'))))
    assert (check.outcome, check.breaks) == ("accepted", True)  # `pages` still names the field
    (check,) = check_contracts(Workspace(edit(clicks, ('"at", "user", PAGE', '"at", "user"'))))
    assert (check.outcome, check.breaks, check.effects[0].dependents) == ("accepted", False, ())


CHANGES = """
from headrace import Struct, changes

@changes(topic="shop.public.customers", key=["id"])
class Customer(Struct):
    id: int
    name: str | None
    note: str | None
"""


def test_a_removed_database_column_breaks_the_current_rows(tmp_path: Path) -> None:
    settings = load_settings(tiny.write(tmp_path / "project", CHANGES))
    adopt_contract(load_project(settings).contract("shop.public.customers"), lakes.open(settings))
    (check,) = check_contracts(Workspace(edit(settings, ("    note: str | None\n", "    more: str | None\n"))))
    assert [effect.change.level for effect in check.effects] == ["breaks", "tightens"]
    assert check.effects[0].dependents == (Dependent("table", "shop_public_customers_current"),)
    (check,) = check_contracts(Workspace(edit(settings, ('key=["id"])', 'key=["id"], version=2)'))))
    assert check.outcome == "accepted"


def test_check_contracts_prints_changes_and_effects(
    clicks: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "contracts", "--project", str(clicks.root)]
    edit(clicks, ("    note: str | None = None", "    note: str | None = None\n    more: int | None = None"))
    assert run_main(*arguments) == 0
    assert "compatible: ingest evolves the table" in capsys.readouterr().out
    edit(clicks, ("    user: int", "    user: str"))
    assert run_main(*arguments) == 1
    output = capsys.readouterr().out
    assert "ingest will not start" in output
    assert "user: it is stored as int64 and would become string" in output
    assert "affects: table users" in output
    assert run_main(*arguments, "--json", "clicks") == 1
    assert '"cannot be stored"' in capsys.readouterr().out
    assert run_main(*arguments, "other") == 2
    (clicks.root / "one.ndjson").write_text("{}")
    capsys.readouterr()
    edit(clicks, ('time="at"', 'time="at", format="avro"'))
    assert run_main("send", "clicks", str(clicks.root / "one.ndjson"), "--project", str(clicks.root)) == 2
    assert "send writes JSON" in capsys.readouterr().err
    assert run_main("ingest", "--until-end", "--project", str(clicks.root)) == 2
    assert "names no schema registry" in capsys.readouterr().err
