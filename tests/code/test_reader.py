"""The reader of Python source: names bound, used and imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from headrace.code.importers import find_importers
from headrace.code.reader import Import, find_imports, names_bound_by, names_used_by
from headrace.kernel.errors import ProjectError


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("a, (b, *c) = x", {"a", "b", "c"}),
        ("a.b = x[0] = 1", set()),
        ("def f(a):\n    b = 1", {"f"}),
        ("class C:\n    a = 1", {"C"}),
        ("x = [a for a in y]", {"x"}),
        ("x = [(last := a) for a in y]", {"x", "last"}),
        ("try:\n    a = 1\nexcept E as error:\n    pass", {"a", "error"}),
        (
            "match x:\n    case [a, *b]:\n        pass\n    case {'k': c, **d}:\n        pass",
            {"a", "b", "c", "d"},
        ),
        ("del a", {"a"}),
        ("f = lambda a: a", {"f"}),
    ],
)
def test_a_statement_binds_the_names_of_its_own_scope(statement: str, names: set[str]) -> None:
    assert names_bound_by(ast.parse(statement).body[0]) == names


def test_used_names_are_those_taken_from_the_module() -> None:
    function = ast.parse("def f(a, b=DEFAULT):\n    c = a + LIMIT\n    return len(c), [c for c in ITEMS]")
    assert names_used_by(function.body[0]) == {"DEFAULT", "LIMIT", "ITEMS", "len"}


@pytest.mark.parametrize(
    ("statement", "imports", "target"),
    [
        ("import a.b", Import("a", "a.b"), "a"),
        ("import a.b as c", Import("c", "a.b", is_renamed=True), "a.b"),
        ("import a.b as a", Import("a", "a.b", is_renamed=True), "a.b"),
        ("from a.b import c as d", Import("d", "a.b", "c", True), "a.b.c"),
        ("from . import c", Import("c", "shop", "c"), "shop.c"),
        ("from .b import c", Import("c", "shop.b", "c"), "shop.b.c"),
        ("from ..b import c", Import("c", "b", "c"), "b.c"),
        ("from .b import *", Import("*", "shop.b", "*"), "shop.b.*"),
    ],
)
def test_an_import_names_its_module_and_what_its_name_stands_for(
    statement: str, imports: Import, target: str
) -> None:
    (imported,) = find_imports(ast.parse(statement), "shop")
    assert imported == imports
    assert imported.target == target
    if not statement.startswith("from ."):
        assert imported.statement == statement


def test_importers_reach_their_target_through_other_modules(tmp_path: Path) -> None:
    texts = {
        "shop": "",
        "shop.views": "from feast import Entity",
        "shop.models": "def late():\n    from shop import views",
        "shop.tables": "import polars",
    }
    files = {}
    for name, text in texts.items():
        files[name] = tmp_path / ("__init__.py" if name == "shop" else f"{name.partition('.')[2]}.py")
        files[name].write_text(text)
    assert find_importers(files, frozenset({"feast"})) == {"shop.views", "shop.models"}
    assert find_importers(files, frozenset({"shop.views"})) == {"shop.models"}
    assert find_importers(files, frozenset()) == set()


def test_a_file_that_is_not_python_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("a = 1\ndef\n")
    with pytest.raises(ProjectError, match="not valid Python") as refused:
        find_importers({"broken": file}, frozenset({"feast"}))
    assert str(refused.value.where) == f"{file}:2"
