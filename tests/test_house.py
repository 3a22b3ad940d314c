"""The house keeps its measures: how long a module, a class and a function may be, and no catch-all rooms."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "headrace"
MODULES = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
CATCH_ALL = {"utils", "util", "common", "helpers", "base", "manager", "misc"}


def lengths(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> dict[str, int]:
    """Where each definition of this kind stands, and its lines."""
    return {
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, kind)
    }


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(SOURCE)): text.count("\n") for path, text in MODULES.items()}
    assert {name: n for name, n in lines.items() if n > 600} == {}
    assert statistics.median(lines.values()) <= 150


def test_functions_and_classes_are_short() -> None:
    functions = lengths((ast.FunctionDef, ast.AsyncFunctionDef))
    assert {name: n for name, n in functions.items() if n > 60} == {}
    assert {name: n for name, n in lengths(ast.ClassDef).items() if n > 300} == {}


def test_no_room_or_file_holds_everything() -> None:
    assert [str(path) for path in MODULES if path.stem in CATCH_ALL or path.parent.name in CATCH_ALL] == []


def test_every_module_says_its_subject() -> None:
    assert [str(path) for path, text in MODULES.items() if not ast.get_docstring(ast.parse(text))] == []
