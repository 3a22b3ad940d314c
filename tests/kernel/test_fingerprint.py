"""Fingerprints of a project that is really edited, file by file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from headrace.kernel.fingerprint import Sources, fingerprint

TABLES = '''
"""Tables."""
import polars as pl
from headrace import table, event, Struct
from shop import rates
from shop.rates import ROUNDING as DIGITS, unused
from shop.events import Sale

COUNTRIES = ["ch", "de"]  # a constant
COUNTRIES.append("at")

class Rows:
    kind = "rows"

@table(reads=Sale, schema=Rows)
def clean(events):
    """What is clean."""
    def inner(frame):
        return frame.filter(pl.col("country").is_in(COUNTRIES))
    return inner(events).with_columns(net=rates.net(pl.col("price"), DIGITS))

@table(reads=clean)
def totals(clean):
    return clean.sum()
'''
RATES = """
from . import deep
ROUNDING = 2
VAT = 0.2
def net(price, digits):
    return deep.rounded(price / (1 + VAT), digits)
def unused():
    return 1
"""
FILES = {
    "__init__.py": "",
    "tables.py": TABLES,
    "rates.py": RATES,
    "deep.py": "def rounded(value, digits):\n    return value.round(digits)\n",
    "events.py": "from headrace import Struct, event\n@event(topic='sales')\nclass Sale(Struct):\n    p: int\n",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def of(folder: Path, name: str, module: str = "shop.tables") -> dict[str, str]:
    names = {p: "shop" if p.stem == "__init__" else f"shop.{p.stem}" for p in folder.glob("*.py")}
    return Sources({name: path for path, name in names.items()}).pieces(module, name)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def test_it_reaches_functions_classes_and_constants_of_the_project_alone(shop: Path) -> None:
    assert sorted(of(shop, "clean")) == [
        "shop.deep.rounded",
        "shop.rates.ROUNDING",
        "shop.rates.VAT",
        "shop.rates.net",
        "shop.tables.COUNTRIES",
        "shop.tables.Rows",
        "shop.tables.clean",
    ]


def test_a_parameter_named_as_a_table_is_not_that_table(shop: Path) -> None:
    assert sorted(of(shop, "totals")) == ["shop.tables.totals"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tables.py", "# a constant", "# another comment"),
        ("tables.py", '"""What is clean."""', '"""Only what is clean."""'),
        ("tables.py", 'COUNTRIES = ["ch", "de"]', 'COUNTRIES = [\n    "ch",\n    "de",\n]'),
        ("tables.py", "return clean.sum()", "return clean.max()"),
        ("rates.py", "return 1", "return 2"),
        ("events.py", "p: int", "p: str"),
        ("tables.py", '"""Tables."""', "'''The tables.'''\n\n"),
    ],
)
def test_an_edit_that_does_not_concern_it_changes_nothing(shop: Path, file: str, old: str, new: str) -> None:
    before = of(shop, "clean")
    edit(shop, file, old, new)
    assert of(shop, "clean") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("tables.py", 'pl.col("price"), DIGITS', 'pl.col("cost"), DIGITS', "shop.tables.clean"),
        ("tables.py", '"de"', '"fr"', "shop.tables.COUNTRIES"),
        ("tables.py", 'COUNTRIES.append("at")', 'COUNTRIES.append("it")', "shop.tables.COUNTRIES"),
        ("tables.py", 'kind = "rows"', 'kind = "lines"', "shop.tables.Rows"),
        ("rates.py", "ROUNDING = 2", "ROUNDING = 3", "shop.rates.ROUNDING"),
        ("rates.py", "VAT = 0.2", "VAT = 0.19", "shop.rates.VAT"),
        ("deep.py", "value.round(digits)", "value.floor()", "shop.deep.rounded"),
        ("tables.py", "import polars as pl", "import pandas as pl", "shop.tables.clean"),
    ],
)
def test_an_edit_of_what_it_reaches_changes_that_piece(
    shop: Path, file: str, old: str, new: str, named: str
) -> None:
    before = of(shop, "clean")
    edit(shop, file, old, new)
    after = of(shop, "clean")
    assert {name for name in before if before[name] != after.get(name)} == {named}


def test_a_table_called_in_a_body_is_code(shop: Path) -> None:
    edit(shop, "tables.py", "return clean.sum()", "return totals_of(clean)")
    edit(
        shop,
        "tables.py",
        "@table(reads=clean)",
        "def totals_of(x):\n    return clean(x)\n\n@table(reads=clean)",
    )
    assert "shop.rates.net" in of(shop, "totals")


def test_imports_in_functions_and_whole_modules_count(shop: Path) -> None:
    (shop / "late.py").write_text("def f():\n    from shop.deep import rounded\n    return rounded\n")
    (shop / "whole.py").write_text("from shop import deep\ndef f():\n    return vars(deep)\n")
    assert "shop.deep.rounded" in of(shop, "f", "shop.late")
    before = of(shop, "f", "shop.whole")
    assert "shop.deep" in before
    edit(shop, "deep.py", "round(digits)", "floor()")
    assert of(shop, "f", "shop.whole") != before


@dataclass(frozen=True)
class Rule:
    metric: str
    span: timedelta


@dataclass(frozen=True)
class Declared:
    name: str
    rules: tuple[Rule, ...]
    reads: object
    place: str


def test_an_object_counts_by_its_fields_and_a_declaration_in_it_by_its_name() -> None:
    sources = Sources({})

    def made(metric: str = "auc", place: str = "a:1", inner: int = 1) -> Declared:
        return Declared(
            "m",
            (Rule(metric, timedelta(inner)),),
            Declared("t", (Rule("x", timedelta(inner)),), None, "b"),
            place,
        )

    assert fingerprint(made(place="z:9"), sources) == fingerprint(made(), sources)
    assert fingerprint(made("f1"), sources) != fingerprint(made(), sources)
    assert fingerprint(Declared("m", (), made(inner=1), ""), sources) == fingerprint(
        Declared("m", (), made(inner=2), ""), sources
    )


def test_it_is_the_same_in_another_process(shop: Path) -> None:
    script = (
        "import json,sys,pathlib; from headrace.kernel.fingerprint import Sources\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "names = {('shop' if p.stem == '__init__' else f'shop.{p.stem}'): p for p in folder.glob('*.py')}\n"
        "print(json.dumps(Sources(names).pieces('shop.tables', 'clean')))"
    )
    out = subprocess.run([sys.executable, "-c", script, str(shop)], capture_output=True, check=True, timeout=60)
    assert json.loads(out.stdout) == of(shop, "clean")
