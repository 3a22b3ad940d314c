"""check contracts: what has changed since the table last saw the contract, and for whom."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.tiny import write

from headrace import lake as lakes
from headrace.cli.main import main
from headrace.config.settings import Settings, load_settings
from headrace.events.ingest.adoption import adopt_contract
from headrace.flows.events.contracts import Reader, contracts
from headrace.projects.project import load_project

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

def chosen(clicks):
    return clicks.select("at", "user", PAGE)

@table(reads=Click)
def pages(clicks):
    return chosen(clicks)

@table(reads=pages)
def counted(pages):
    return pages.select(pl.len())

@table(reads=Click)
def users(clicks):
    return clicks.select(pl.col("user"))
"""


@pytest.fixture
def clicks(tmp_path: Path) -> Settings:
    """A project whose table of clicks has seen its contract."""
    settings = load_settings(write(tmp_path / "project", CLICKS))
    adopt_contract(load_project(settings).contract("clicks"), lakes.open(settings))
    return settings


def edited(settings: Settings, *edits: tuple[str, str]) -> Settings:
    file = settings.root / "tiny" / "tables.py"
    text = file.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    for name in [one for one in sys.modules if one.split(".")[0] == "tiny"]:
        del sys.modules[name]
    return settings


def code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_a_field_that_goes_breaks_what_names_it(clicks: Settings) -> None:
    (one,) = contracts(clicks)
    assert (one.outcome, one.was, one.changes, one.breaks) == ("unchanged", 1, (), False)
    gone = ("    page: str\n", "")
    (one,) = contracts(edited(clicks, gone))
    assert (one.outcome, one.breaks) == ("refused", True)
    (told,) = one.changes
    assert (told.change.level, told.change.field, told.producers) == ("breaks", "page", False)
    assert told.readers == (Reader("table", "pages"), Reader("table", "counted", "pages"))
    assert "version=2" in str(one.remedy)
    (one,) = contracts(edited(clicks, ('time="at")', 'time="at", version=2)')))
    assert (one.outcome, one.breaks) == ("meant", True)  # it is meant, and `pages` names it all the same
    (one,) = contracts(edited(clicks, ('"at", "user", PAGE', '"at", "user"')))
    assert (one.outcome, one.breaks, one.changes[0].readers) == ("meant", False, ())


CHANGES = """
from headrace import Struct, changes

@changes(topic="shop.public.customers", key=["id"])
class Customer(Struct):
    id: int
    name: str | None
    note: str | None
"""


def test_a_column_of_a_database_that_goes(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "project", CHANGES))
    adopt_contract(load_project(settings).contract("shop.public.customers"), lakes.open(settings))
    (one,) = contracts(edited(settings, ("    note: str | None\n", "    more: str | None\n")))
    assert [told.change.level for told in one.changes] == ["breaks", "tightens"]
    assert one.changes[0].readers == (Reader("table", "shop_public_customers_current"),)
    (one,) = contracts(edited(settings, ('key=["id"])', 'key=["id"], version=2)')))
    assert one.outcome == "meant"


def test_the_verb_tells_what_breaks(clicks: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["check", "contracts", "--project", str(clicks.root)]
    edited(clicks, ("    note: str | None = None", "    note: str | None = None\n    more: int | None = None"))
    assert code(*here) == 0
    assert "compatible: ingest takes it by itself" in capsys.readouterr().out
    edited(clicks, ("    user: int", "    user: str"))
    assert code(*here) == 1
    said = capsys.readouterr().out
    assert "ingest will not start" in said
    assert "user: it is stored as int64 and would become string" in said
    assert "for: table users" in said
    assert code(*here, "--json", "clicks") == 1
    assert '"cannot be stored"' in capsys.readouterr().out
    assert code(*here, "other") == 2
    (clicks.root / "one.ndjson").write_text("{}")
    capsys.readouterr()
    edited(clicks, ('time="at"', 'time="at", format="avro"'))
    assert code("send", "clicks", str(clicks.root / "one.ndjson"), "--project", str(clicks.root)) == 2
    assert "send writes JSON" in capsys.readouterr().err
    assert code("ingest", "--until-end", "--project", str(clicks.root)) == 2
    assert "names no schema registry" in capsys.readouterr().err
