"""Fingerprints of a project whose files are edited."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from headrace.code.fingerprint import fingerprint, values_digest
from headrace.code.index import CodeIndex
from headrace.declare.trainers import Sklearn

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


def pieces_of(folder: Path, name: str, module: str = "shop.tables") -> dict[str, str]:
    names = {p: "shop" if p.stem == "__init__" else f"shop.{p.stem}" for p in folder.glob("*.py")}
    return CodeIndex({name: path for path, name in names.items()}).pieces(module, name)


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def test_a_fingerprint_covers_the_project_functions_classes_and_constants_it_reaches(shop: Path) -> None:
    assert sorted(pieces_of(shop, "clean")) == [
        "shop.deep.rounded",
        "shop.rates.ROUNDING",
        "shop.rates.VAT",
        "shop.rates.net",
        "shop.tables.COUNTRIES",
        "shop.tables.Rows",
        "shop.tables.clean",
    ]


def test_a_parameter_with_the_name_of_a_table_is_not_that_table(shop: Path) -> None:
    assert sorted(pieces_of(shop, "totals")) == ["shop.tables.totals"]


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
def test_an_edit_of_unreached_code_changes_nothing(shop: Path, file: str, old: str, new: str) -> None:
    before = pieces_of(shop, "clean")
    edit(shop, file, old, new)
    assert pieces_of(shop, "clean") == before


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
def test_an_edit_of_reached_code_changes_its_piece(
    shop: Path, file: str, old: str, new: str, named: str
) -> None:
    before = pieces_of(shop, "clean")
    edit(shop, file, old, new)
    after = pieces_of(shop, "clean")
    assert {name for name in before if before[name] != after.get(name)} == {named}


def test_a_table_called_in_a_body_counts_as_code(shop: Path) -> None:
    edit(shop, "tables.py", "return clean.sum()", "return totals_of(clean)")
    edit(
        shop,
        "tables.py",
        "@table(reads=clean)",
        "def totals_of(x):\n    return clean(x)\n\n@table(reads=clean)",
    )
    assert "shop.rates.net" in pieces_of(shop, "totals")


def test_imports_in_functions_and_whole_modules_count(shop: Path) -> None:
    (shop / "late.py").write_text("def f():\n    from shop.deep import rounded\n    return rounded\n")
    (shop / "whole.py").write_text("from shop import deep\ndef f():\n    return vars(deep)\n")
    assert "shop.deep.rounded" in pieces_of(shop, "f", "shop.late")
    before = pieces_of(shop, "f", "shop.whole")
    assert "shop.deep" in before
    edit(shop, "deep.py", "round(digits)", "floor()")
    assert pieces_of(shop, "f", "shop.whole") != before


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


def test_an_object_counts_by_its_fields_and_a_nested_declaration_by_its_name() -> None:
    index = CodeIndex({})

    def declare(metric: str = "auc", place: str = "a:1", inner: int = 1) -> Declared:
        return Declared(
            "m",
            (Rule(metric, timedelta(inner)),),
            Declared("t", (Rule("x", timedelta(inner)),), None, "b"),
            place,
        )

    assert fingerprint(declare(place="z:9"), index) == fingerprint(declare(), index)
    assert fingerprint(declare("f1"), index) != fingerprint(declare(), index)
    assert fingerprint(Declared("m", (), declare(inner=1), ""), index) == fingerprint(
        Declared("m", (), declare(inner=2), ""), index
    )


def test_an_estimator_counts_by_all_its_parameters() -> None:
    """Its repr leaves out what does not fit into 700 characters."""
    index = CodeIndex({})

    def declare(last: int, **parameters: float) -> Sklearn:
        bins = [FunctionTransformer(kw_args={f"parameter_{n}": n for n in range(60)}) for _ in range(3)]
        steps = [(f"step_{n}", transformer) for n, transformer in enumerate(bins)]
        steps[1][1].kw_args["parameter_30"] = last
        return Sklearn(Pipeline([*steps, ("model", LogisticRegression(**parameters))]))

    first = fingerprint(declare(30), index)
    assert fingerprint(declare(30), index) == first
    assert fingerprint(declare(31), index) != first
    assert fingerprint(declare(30, C=2.0), index) != first


def test_pieces_are_the_same_in_another_process(shop: Path) -> None:
    script = (
        "import json,sys,pathlib; from headrace.code.index import CodeIndex\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "names = {('shop' if p.stem == '__init__' else f'shop.{p.stem}'): p for p in folder.glob('*.py')}\n"
        "print(json.dumps(CodeIndex(names).pieces('shop.tables', 'clean')))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(shop)], capture_output=True, check=True, timeout=300
    )
    assert json.loads(out.stdout) == pieces_of(shop, "clean")


IMPORT_EFFECTS = {
    "__init__.py": "",
    "base.py": """
STAR = 1
RATES = {"usd": 1}
LIMIT = 5
NAMES = []
UNTOUCHED = {}

class Registry:
    def __init__(self):
        self.functions = {}
    def add(self, name):
        def take_in(function):
            self.functions[name] = function
            return function
        return take_in

registry = Registry()
HANDLERS = {}

def handles(name):
    def take_in(function):
        HANDLERS[name] = function
        return function
    return take_in

def set_limit(value):
    global LIMIT
    LIMIT = value

def fill(names):
    names.append("x")

def fill_all():
    fill_deeper()

def fill_deeper():
    NAMES.append("y")
""",
    "middle.py": "from shop.base import *\n",
    "outer.py": "from shop.middle import *\n",
    "patch.py": """
from shop import base
from shop.base import RATES, NAMES, fill, fill_all, handles, registry, set_limit
RATES["eur"] = 2
base.UNTOUCHED = {}
fill(NAMES)
set_limit(6)
fill_all()
if True:
    RATES.update(chf=3)

@registry.add("first")
def first_rule(frame):
    return frame + helper()

def helper():
    return 7

@handles("second")
def second_rule(frame):
    return frame + 8
""",
    "tables.py": """
from shop.outer import *
from shop import base
def star(): return STAR
def rates(): return base.RATES["eur"]
def limit(): return base.LIMIT
def names(): return base.NAMES
def rules(frame): return base.registry.functions["first"](frame)
def handlers(frame): return base.HANDLERS["second"](frame)
def nothing(): return 1
""",
}


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    for name, text in IMPORT_EFFECTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("function", "file", "old", "new"),
    [
        ("star", "base.py", "STAR = 1", "STAR = 2"),
        ("rates", "patch.py", 'RATES["eur"] = 2', 'RATES["eur"] = 3'),
        ("rates", "patch.py", "chf=3", "chf=4"),
        ("limit", "patch.py", "set_limit(6)", "set_limit(7)"),
        ("names", "patch.py", "fill(NAMES)", "fill(names=NAMES)"),
        ("names", "base.py", 'names.append("x")', 'names.append("z")'),
        ("names", "base.py", 'NAMES.append("y")', 'NAMES.append("z")'),
        ("rules", "patch.py", "frame + helper()", "frame - helper()"),
        ("rules", "patch.py", "return 7", "return 8"),
        ("handlers", "patch.py", "frame + 8", "frame + 9"),
    ],
)
def test_import_effects_count_for_the_object_they_change(
    effects: Path, function: str, file: str, old: str, new: str
) -> None:
    functions = ("star", "rates", "limit", "names", "rules", "handlers", "nothing")
    before = {name: pieces_of(effects, name) for name in functions}
    edit(effects, file, old, new)
    after = {name: pieces_of(effects, name) for name in functions}
    assert {name for name in functions if before[name] != after[name]} == {function}


DEFINITION_EFFECTS = {
    "__init__.py": "",
    "base.py": """
import functools
RATES = {}
NAMES = []
CAP = 1

class Registry:
    rules = {}
    @classmethod
    def add(cls, function):
        cls.rules[function.__name__] = function
        return function

@functools.singledispatch
def size(value): return 0

class Setting:
    factor = 1

class Base:
    kinds = []
    def __init_subclass__(cls): Base.kinds.append(cls)

class Kept(type):
    known = []
    def __init__(cls, name, bases, body): Kept.known.append(cls)

class Root(metaclass=Kept): pass
class Plain: pass

def rounded(value): return value
def late(): return 0
""",
    "patch.py": """
from shop import base
from shop.base import CAP, NAMES, RATES, Base, Plain, Registry, Root, Setting, size
RATES |= {"eur": 2}
NAMES += ["x"]
NAMES[0:0] = ["y"]
CAP += 3

@Registry.add
def rule(frame): return frame + 4

@size.register(int)
def _(value): return 5

def size_of_text(value): return 6
size.register(str, size_of_text)

Setting.factor = 7

class Middle(Base): pass
class Kind(Middle): value = 8
class Known(Root): value = 9
class Other(Plain): value = 10

def replaced(): return 11
base.late = replaced
""",
    "tables.py": """
from functools import partial
from shop import base
from shop.base import rounded, Plain
rounded = partial(rounded, 12)

def start():
    global STARTED
    STARTED = 13
start()

def rates(): return base.RATES
def names(): return base.NAMES
def cap(): return base.CAP
def rules(): return base.Registry.rules
def sizes(): return base.size(1)
def setting(): return base.Setting.factor
def kinds(): return base.Base.kinds
def known(): return base.Kept.known
def late(): return base.late()
def wrapped(): return rounded()
def started(): return STARTED
def plain(): return Plain()
""",
}


@pytest.mark.parametrize(
    ("function", "file", "old", "new"),
    [
        ("rates", "patch.py", '"eur": 2', '"eur": 3'),
        ("names", "patch.py", '["x"]', '["z"]'),
        ("names", "patch.py", '["y"]', '["z"]'),
        ("rules", "patch.py", "frame + 4", "frame - 4"),
        ("sizes", "patch.py", "return 5", "return -5"),
        ("sizes", "patch.py", "return 6", "return -6"),
        ("setting", "patch.py", "factor = 7", "factor = -7"),
        ("kinds", "patch.py", "value = 8", "value = -8"),
        ("known", "patch.py", "value = 9", "value = -9"),
        ("late", "patch.py", "return 11", "return -11"),
        ("wrapped", "base.py", "return value", "return -value"),
        ("started", "tables.py", "STARTED = 13", "STARTED = -13"),
        (None, "patch.py", "value = 10", "value = -10"),
    ],
)
def test_import_effects_count_for_functions_and_classes_and_for_imported_names(
    tmp_path: Path, function: str | None, file: str, old: str, new: str
) -> None:
    for name, text in DEFINITION_EFFECTS.items():
        (tmp_path / name).write_text(text)
    functions = re.findall(r"def (\w+)\(\): return", DEFINITION_EFFECTS["tables.py"])
    before = {name: pieces_of(tmp_path, name) for name in functions}
    edit(tmp_path, file, old, new)
    after = {name: pieces_of(tmp_path, name) for name in functions}
    assert [name for name in functions if before[name] != after[name]] == [function] * (function is not None)


def test_star_imports_in_a_circle_end(effects: Path) -> None:
    (effects / "base.py").write_text("from shop.outer import *\n" + IMPORT_EFFECTS["base.py"])
    assert "shop.base.STAR" in pieces_of(effects, "star")


def load(folder: Path, name: str) -> tuple[ModuleType, CodeIndex]:
    """Imports a module of one file. Returns it with its index."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, CodeIndex({name: folder / f"{name}.py"})


FACTORY = """
import functools
import polars as pl

class Scale:
    def __init__(self, factor):
        self.factor = factor

def make(number, expression, frame, scale, names, then):
    def total(rows, extra=number):
        return number, expression, frame, scale, names, then
    return total

def double(value):
    return 2 * value

VALUES = dict(
    number=1,
    expression=pl.col("a") + 1,
    frame=pl.DataFrame({"a": [1] * 100}),
    scale=Scale(2),
    names={"x", "y", "z"},
    then=functools.partial(double, 3),
)
plain = double
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", "2"),
        ("expression", 'pl.col("a") + 2'),
        ("frame", 'pl.DataFrame({"a": [1] * 99 + [2]})'),
        ("scale", "Scale(3)"),
        ("names", '{"x", "y"}'),
        ("then", "functools.partial(double, 4)"),
    ],
)
def test_closure_values_of_a_function_count(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "factory.py").write_text(FACTORY)
    module, index = load(tmp_path, "factory")

    def make(**changes: object) -> object:
        return module.make(**{**module.VALUES, **changes})

    before = fingerprint(make(), index)
    assert fingerprint(make(), index) == before
    changed = eval(value, vars(module))
    assert fingerprint(make(**{name: changed}), index) != before
    assert values_digest(make(**{name: changed}), index) != values_digest(make(), index)
    assert values_digest(module.plain, index) is None


def test_closure_values_are_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text(FACTORY)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import factory, pathlib\n"
        "from headrace.code.fingerprint import fingerprint\n"
        "from headrace.code.index import CodeIndex\n"
        "path = pathlib.Path(sys.argv[1]) / 'factory.py'\n"
        "print(fingerprint(factory.make(**factory.VALUES), CodeIndex({'factory': path})))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("old", "new", "is_changed"),
    [
        ("rows.head(3)", "rows.head(4)", True),
        ("LIMIT = 1", "LIMIT = 2", True),
        ("return value", "return value + 1", True),
        ("rows.tail(1)", "rows.tail(2)", False),
        ("# none", "# a comment", False),
        ('name="a"', 'name="b"', False),
    ],
)
def test_a_lambda_counts_by_its_own_code(tmp_path: Path, old: str, new: str, is_changed: bool) -> None:
    text = """
LIMIT = 1
def cut(value):
    return value
first = dict(
    name="a",  # none
    rows=lambda rows: (rows.head(3), cut(LIMIT)),
)
second = lambda rows: rows.tail(1)
"""
    (tmp_path / "lambdas.py").write_text(text)
    module, index = load(tmp_path, "lambdas")
    before = fingerprint({"rows": module.first["rows"]}, index)
    (tmp_path / "lambdas.py").write_text(text.replace(old, new))
    module, index = load(tmp_path, "lambdas")
    assert (fingerprint({"rows": module.first["rows"]}, index) != before) is is_changed
