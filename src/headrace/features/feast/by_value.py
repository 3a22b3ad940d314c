"""A function by value: as Python text that stands on its own, away from the project and from Feast.

An on-demand function is written in a module that imports Feast, and runs in a serving process that
never does. Pickling it would bring that module back (dill and pickle keep what can be imported by
its name), would hold only for one version of Python, and would change when a comment moves its
lines. So it is carried as text: the function, and every statement of the project's modules that it
reaches, each after what it needs, without comments, without annotations of functions.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

from headrace.kernel.errors import ProjectError

__all__ = ["carried"]

_ALWAYS_THERE = frozenset([*dir(builtins), "__name__"])
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def carried(function: Callable[..., Any], *, decorator: str = "") -> str:
    """The text that defines `function` and all it reaches: run it in an empty namespace.

    Args:
        function: a function defined at the top of a module of the project.
        decorator: a decorator of this name is left off it.

    Raises:
        ProjectError: it is nested, a lambda or without source; it reaches Feast, a whole module of
            the project (`import shop.text`), or a name that is nowhere defined.
    """
    if not isinstance(function, FunctionType):
        raise ProjectError(f"{function!r} can't be carried to serving: it is no plain function")
    name, module = function.__name__, function.__globals__["__name__"]
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    top = _Module.read(module, where)
    if function.__closure__ or not any(isinstance(s, _Function) for s in top.binding(name)):
        raise ProjectError(
            f"{name} can't be carried to serving: it is no plain function at the top of a module",
            where=where,
            remedy="Write it as a def of its own, at the top of the module.",
        )
    carrier = _Carrier(project=module.partition(".")[0], decorator=decorator)
    carrier.take(top, name, where)
    return "\n".join(dict.fromkeys(carrier.lines)) + "\n"


@dataclass
class _Module:
    """One module of the project: its statements and the names that each binds."""

    name: str
    file: str
    package: str
    statements: list[ast.stmt]
    binds: list[frozenset[str]]

    @staticmethod
    def read(name: str, where: str) -> _Module:
        loaded = sys.modules.get(name)
        file = getattr(loaded, "__file__", None)
        if loaded is None or file is None:
            raise ProjectError(f"module {name} has no source to carry a function from", where=where)
        body = ast.parse(Path(file).read_bytes(), filename=file).body
        return _Module(name, file, loaded.__package__ or "", body, [_bound(one) for one in body])

    def binding(self, name: str) -> list[ast.stmt]:
        return [one for one, names in zip(self.statements, self.binds, strict=True) if name in names]


@dataclass
class _Carrier:
    """Gathers statements, each after those that it reaches."""

    project: str
    decorator: str
    modules: dict[str, _Module] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)  # (module, name or line)
    homes: dict[str, str] = field(default_factory=dict)  # name → what it is in the text
    lines: list[str] = field(default_factory=list)

    def take(self, module: _Module, name: str, where: str) -> None:
        """Takes the statements that bind `name` in the module, and what they reach."""
        statements = module.binding(name)
        if (module.name, name) in self.done or (not statements and name in _ALWAYS_THERE):
            return
        self.done.add((module.name, name))
        if not statements:
            raise ProjectError(
                f"an on-demand function uses {name}, which {module.file} does not define", where=where
            )
        for statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(module, statement, name)
            else:
                self._claim(name, module.name, where)
                self._statement(module, statement)

    def _claim(self, name: str, home: str, where: str) -> None:
        held = self.homes.setdefault(name, home)
        if held != home:
            raise ProjectError(
                f"an on-demand function reaches two things called {name}: {held} and {home}",
                where=where,
                remedy="Rename one of them.",
            )

    def _statement(self, module: _Module, statement: ast.stmt) -> None:
        line = (module.name, str(statement.lineno))
        if line in self.done:
            return
        self.done.add(line)
        stripped = _Stripped(self.decorator).visit(ast.parse(ast.unparse(statement)).body[0])
        text = ast.unparse(stripped)
        for name in sorted(_bound(stripped) | _reached(text)):
            self.take(module, name, f"{module.file}:{statement.lineno}")
        self.lines.append(text)

    def _import(self, module: _Module, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        where = f"{module.file}:{statement.lineno}"
        base = _base(module, statement) if isinstance(statement, ast.ImportFrom) else ""
        alias = next(a for a in statement.names if _imported(a, base) == name)
        top = (base or alias.name).partition(".")[0]
        if top == "feast":
            raise ProjectError(
                f"an on-demand function reaches {name}, which is Feast's",
                where=where,
                remedy="It runs where Feast is not: let it use its inputs, plain functions and constants.",
            )
        if top != self.project:
            single = ast.ImportFrom(base, [alias], 0) if base else ast.Import([alias])
            self._claim(name, ast.unparse(single), where)
            self.lines.append(ast.unparse(single))
        elif not base or f"{base}.{alias.name}" in sys.modules:
            raise ProjectError(
                f"an on-demand function uses the project's module {alias.name} as a whole",
                where=where,
                remedy="Import the names it uses: from module import name.",
            )
        else:
            if base not in self.modules:
                self.modules[base] = _Module.read(base, where)
            self.take(self.modules[base], alias.name, where)
            if name != alias.name:
                self._claim(name, module.name, where)
                self.lines.append(f"{name} = {alias.name}")


def _imported(alias: ast.alias, base: str) -> str:
    """The name that this part of an import statement binds."""
    return alias.asname or (alias.name if base else alias.name.partition(".")[0])


class _Stripped(ast.NodeTransformer):
    """Takes annotations off functions: they would drag in what only a reader needs."""

    def __init__(self, decorator: str) -> None:
        self.decorator = decorator

    def _function(self, node: _Function) -> ast.AST:
        node.returns = None
        given = node.args
        for one in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]:
            if one is not None:
                one.annotation = None
        node.decorator_list = [d for d in node.decorator_list if _called(d) != self.decorator]
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function  # noqa: N815 (ast's own names)


def _called(node: ast.expr) -> str:
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _base(module: _Module, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.package.split(".")
    parent = parts[: len(parts) - statement.level + 1]
    return ".".join([*parent, *([statement.module] if statement.module else [])])


def _bound(statement: ast.stmt) -> frozenset[str]:
    """The names that a statement at the top of a module binds."""
    table = symtable.symtable(ast.unparse(statement), "<statement>", "exec")
    return frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())


def _reached(text: str) -> set[str]:
    """The names of the module, or of Python, that a statement's text uses."""
    table = symtable.symtable(text, "<statement>", "exec")
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
    pending = list(table.get_children())
    while pending:
        scope = pending.pop()
        pending.extend(scope.get_children())
        names |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    return names
