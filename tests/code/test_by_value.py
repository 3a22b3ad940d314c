from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headrace.code.by_value import serialize_function
from headrace.kernel.errors import ProjectError

TEXT = """
import re as regex

WORD = regex.compile(r"\\w+")  # words


def words(text: "str") -> list:
    return WORD.findall(text)
"""

FEATURES = """
import math
from datetime import timedelta as td

import feast  # as the modules of features do
import goods.text as text_module
from goods.text import words as all_words

from .text import words

LIMIT = 3
LIMIT += 1


class Pair:
    first: int = LIMIT


activity = feast.Entity(name="x", value_type=feast.ValueType.INT64)


def half(x: feast.Entity) -> feast.Entity:
    activity = x / 2  # a name of its own, not the entity
    return activity


def endless(n):
    return endless(n - 1) if n else Pair.first


def wanted(inputs: feast.Entity):
    days = [td(days=i).days for i in range(2)]
    found = len(words("a b")) + len(all_words("q"))
    return half(inputs["p"]) + math.floor(1.5) + found + sum(days) + endless(2)


def uses_feast(inputs):
    return activity


def uses_module(inputs):
    return text_module.words("a")


def uses_nothing(inputs):
    return not_there


outer = lambda inputs: inputs


def makes():
    n = 1

    def inner(inputs):
        return n

    return inner
"""


@pytest.fixture
def goods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second must be seen

    def make(features: str = FEATURES) -> ModuleType:
        package = tmp_path / "goods"
        package.mkdir(exist_ok=True)
        for name, text in (("__init__.py", ""), ("text.py", TEXT), ("features.py", features)):
            (package / name).write_text(text)
        for name in [n for n in sys.modules if n.split(".")[0] == "goods"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("goods.features")

    return make


def run(text: str, name: str) -> Any:
    space: dict[str, Any] = {"__name__": "elsewhere"}
    exec(text, space)
    return space[name]


def test_the_text_of_a_function_runs_alone(goods: Callable[..., ModuleType]) -> None:
    module = goods()
    text = serialize_function(module.wanted)
    assert "feast" not in text
    assert "#" not in text
    assert run(text, "wanted")({"p": 4}) == module.wanted({"p": 4})


def test_the_text_changes_with_the_code_it_reaches_alone(goods: Callable[..., ModuleType]) -> None:
    before = serialize_function(goods().wanted)
    assert serialize_function(goods(FEATURES.replace("LIMIT = 3", "\n# three\nLIMIT =  3")).wanted) == before
    assert serialize_function(goods(FEATURES.replace("return not_there", "return None")).wanted) == before
    assert serialize_function(goods(FEATURES.replace("LIMIT = 3", "LIMIT = 4")).wanted) != before


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("uses_feast", "reaches feast, which is Feast's"),
        ("uses_module", "module goods.text as a whole"),
        ("uses_nothing", "uses not_there, which .* does not define"),
        ("outer", "not a plain function at the top"),
    ],
)
def test_a_function_that_cannot_be_serialized_is_refused(
    goods: Callable[..., ModuleType], name: str, what: str
) -> None:
    module = goods()
    with pytest.raises(ProjectError, match=what) as raised:
        serialize_function(getattr(module, name))
    assert "features.py:" in (raised.value.where or "")


def test_a_closure_is_refused(goods: Callable[..., ModuleType]) -> None:
    with pytest.raises(ProjectError, match="not a plain function at the top"):
        serialize_function(goods().makes())


def test_two_things_of_one_name_are_refused(goods: Callable[..., ModuleType]) -> None:
    module = goods(FEATURES.replace("LIMIT = 3", "WORD = 3\nLIMIT = WORD"))
    with pytest.raises(ProjectError, match="two things called WORD"):
        serialize_function(module.wanted)


@pytest.mark.parametrize(
    ("statements", "value"),
    [
        ("X = {}\nX['a'] = 1", {"a": 1}),
        ("X = {'a': 1, 'b': 2}\ndel X['a']", {"b": 2}),
        ("X = {}\nX.setdefault('a', []).append(1)", {"a": [1]}),
        ("X = []\nfor n in range(3):\n    if n:\n        X.append(n)", [1, 2]),
        ("X = [1, 2]\nX[0] += 5", [6, 2]),
        ("A = 1\nX = A + 1\nA = 5", 2),
        ("X = 0\nX += 1\nX += 1", 2),
        ("X = 1; Y = 2; X = X + Y", 3),
        ("X, Y = 1, 2\nX, Y = Y, X", 2),
        ("A = 1\ndef made(a=A):\n    return a\nA = 2\nX = [made(), A]", [1, 2]),
        ("from goods.text import FOUND\nFOUND.append(2)\nX = FOUND", [1, 2]),
    ],
)
def test_a_value_results_from_all_its_statements_in_order(goods, monkeypatch, statements, value):
    monkeypatch.setattr(sys.modules[__name__], "TEXT", "FOUND = []\nFOUND.append(1)\n")
    module = goods(f"{statements}\ndef wanted(inputs):\n    return X\n")
    assert module.wanted({}) == value
    text = serialize_function(module.wanted)
    module.X = None
    assert run(text, "wanted")({}) == value


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        ("X = {}\ndef put(key):\n    X[key] = 1\nput('a')", "X of goods.features gets another value"),
        ("X = None\ndef make():\n    global X\n    X = 3\nmake()", "X of goods.features gets another value"),
        ("import random\nX = [random.random()]", "X of goods.features gets another value"),
        (
            "try:\n    from goods.text import WORD as X\nexcept ImportError:\n    X = 0",
            "imports goods.text within",
        ),
        ("def X():\n    from .text import WORD", "imports goods.text within another statement"),
        ("import sys\nX = vars(sys.modules[__name__])['__file__']", "cannot run alone: KeyError"),
        ("X = __doc__", "uses __doc__, which .* does not define"),
    ],
)
def test_a_value_that_would_differ_elsewhere_is_refused(goods, statements, what):
    module = goods(f"{statements}\ndef wanted(inputs):\n    return X\n")
    with pytest.raises(ProjectError, match=what):
        serialize_function(module.wanted)


def test_a_function_that_caches_its_answers_can_be_serialized_after_a_call(goods):
    statements = "KNOWN = {}\ndef wanted(inputs):\n    return KNOWN.setdefault(inputs['p'], len(KNOWN))\n"
    module = goods(statements)
    text = serialize_function(module.wanted)
    assert module.wanted({"p": 1}) == 0
    assert serialize_function(module.wanted) == text


@pytest.mark.parametrize(
    ("statements", "value"),
    [
        ("from goods.text import *\nX = FOUND", [1]),
        ("from math import *\nX = floor(1.5)", 1),
        ("from goods.text import *\nX = sum([2, 3])", "the module's own sum"),
    ],
)
def test_names_of_a_star_import_are_serialized(goods, monkeypatch, statements, value):
    text = 'FOUND = [1]\ndef sum(values):\n    return "the module\'s own sum"\n'
    monkeypatch.setattr(sys.modules[__name__], "TEXT", text)
    module = goods(f"{statements}\ndef wanted(inputs):\n    return X\n")
    assert module.wanted({}) == value
    assert run(serialize_function(module.wanted), "wanted")({}) == value


def test_a_star_import_of_feast_is_refused_with_its_line(goods):
    module = goods("import math\nfrom feast import *\ndef wanted(inputs):\n    return Field\n")
    with pytest.raises(ProjectError, match="reaches Field, which is Feast's") as refused:
        serialize_function(module.wanted)
    assert (refused.value.where or "").endswith("features.py:2")


READS_PARAMS = """
from headrace import params

RATE = params("rate")
LEVELS = [params("rate") + 1]
first, second = params("rate"), 2


def scaled(inputs):
    return inputs["p"] * RATE + LEVELS[0]


def unpacked(inputs):
    return first
"""


def test_a_constant_from_params_yaml_is_carried_as_its_value(
    goods: Callable[..., ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "headrace.toml").write_text('[project]\nname = "goods"\n')
    (tmp_path / "params.yaml").write_text("rate: 3\n")
    module = goods(READS_PARAMS)
    text = serialize_function(module.scaled)
    assert "headrace" not in text
    assert run(text, "scaled")({"p": 2}) == module.scaled({"p": 2}) == 10
    (tmp_path / "params.yaml").write_text("rate: 4\n")
    assert serialize_function(goods(READS_PARAMS).scaled) != text


def test_a_statement_that_takes_several_values_from_params_yaml_is_refused(
    goods: Callable[..., ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "headrace.toml").write_text('[project]\nname = "goods"\n')
    (tmp_path / "params.yaml").write_text("rate: 3\n")
    with pytest.raises(ProjectError, match=r"reads params\.yaml") as refused:
        serialize_function(goods(READS_PARAMS).unpacked)
    assert "features.py:6" in str(refused.value.where)
