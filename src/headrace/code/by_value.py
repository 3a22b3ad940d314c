"""A function by value: as Python text that stands on its own, away from the project and from Feast.

An on-demand function is written in a module that imports Feast, and runs in a serving process that
never does. Pickling it would bring that module back (dill and pickle keep what can be imported by
its name), would hold only for one version of Python, and would change when a comment moves its
lines. So it is carried as text: the function, and every statement of the project's modules that it
reaches or that changes what it reaches, in their order, without comments, without annotations of functions.
"""

from __future__ import annotations

import ast
import builtins
import symtable
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

from headrace.kernel.errors import ProjectError

__all__ = ["serialize_function"]

_OF_A_MODULE = {"__doc__", "__loader__", "__package__", "__spec__"}  # builtins has its own
_ALWAYS_THERE = frozenset([*dir(builtins), "__name__"]) - _OF_A_MODULE
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_checked: weakref.WeakKeyDictionary[FunctionType, str] = weakref.WeakKeyDictionary()


def serialize_function(function: Callable[..., Any], *, decorator: str = "") -> str:
    """The text that defines `function` and all it reaches: run it in an empty namespace.

    The text is run once, to see that what the function reaches has the values there that it has here.

    Args:
        function: a function defined at the top of a module of the project.
        decorator: a decorator of this name is left off it.

    Raises:
        ProjectError: it is nested, a lambda or without source; it reaches Feast, a whole module of
            the project (`import shop.text`), or a name that is nowhere defined; the text can't be run
            alone, or gives other values.
    """
    if not isinstance(function, FunctionType):
        raise ProjectError(f"{function!r} can't be carried to serving: it is no plain function")
    name, module = function.__name__, function.__globals__["__name__"]
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    top = _Module.read(module, where)
    if function.__closure__ or not any(isinstance(s, _Function) for _, s in top.statements_of(name)):
        raise ProjectError(
            f"{name} can't be carried to serving: it is no plain function at the top of a module",
            where=where,
            remedy="Write it as a def of its own, at the top of the module.",
        )
    carrier = _Carrier(project=module.partition(".")[0], decorator=decorator)
    carrier.take(top, name, where)
    text = carrier.text(module)
    if _checked.get(function) != text:  # once: a function that remembers its answers changes what it reaches
        carrier.check(text, name, where)
        _checked[function] = text
    return text


@dataclass
class _Module:
    """One module of the project: its statements, and the names that each binds, or changes the value of."""

    name: str
    file: str
    package: str
    statements: list[ast.stmt]
    binds: list[frozenset[str]]
    changes: list[frozenset[str]]

    @staticmethod
    def read(name: str, where: str) -> _Module:
        loaded = sys.modules.get(name)
        file = getattr(loaded, "__file__", None)
        if loaded is None or file is None:
            raise ProjectError(f"module {name} has no source to carry a function from", where=where)
        body = ast.parse(Path(file).read_bytes(), filename=file).body
        binds, changes = [_bound(one) for one in body], [frozenset(_changed(one)) for one in body]
        return _Module(name, file, loaded.__package__ or "", body, binds, changes)

    def statements_of(self, name: str) -> list[tuple[int, ast.stmt]]:
        """The statements that make the name's value what it is, each with its place in the module."""
        pairs = enumerate(zip(self.statements, self.binds, self.changes, strict=True))
        return [(at, one) for at, (one, binds, changes) in pairs if name in binds or name in changes]


@dataclass
class _Carrier:
    """Gathers statements. In the text they stand in the order in which they ran."""

    project: str
    decorator: str
    modules: dict[str, _Module] = field(default_factory=dict)
    done: set[tuple[str, str | int]] = field(default_factory=set)  # (module, name or place of a statement)
    homes: dict[str, str] = field(default_factory=dict)  # name → what it is in the text
    taken: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # module → place → text
    bases: dict[str, dict[str, None]] = field(default_factory=dict)  # module → those that it imports from

    def take(self, module: _Module, name: str, where: str) -> None:
        """Takes the statements that make the name's value in the module, and what they reach."""
        statements = module.statements_of(name)
        if (module.name, name) in self.done or (not statements and name in _ALWAYS_THERE):
            return
        self.done.add((module.name, name))
        if not statements:
            raise ProjectError(
                f"an on-demand function uses {name}, which {module.file} does not define", where=where
            )
        for place, statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(module, place, statement, name)
            else:
                if name in module.binds[place]:
                    self._claim(name, module.name, where)
                self._statement(module, place, statement)

    def text(self, module: str) -> str:
        """What was taken: a module's statements in their order, behind those of the modules it imports from."""
        ordered: dict[str, None] = {}
        self._order(module, ordered, set())
        lines = [line for one in ordered for _, at in sorted(self.taken.get(one, {}).items()) for line in at]
        return "\n".join(lines) + "\n"

    def check(self, text: str, function: str, where: str) -> None:
        """Runs the text, and compares the values in it with those that the project's modules have.

        Raises:
            ProjectError: it fails, or a value differs.
        """
        space: dict[str, Any] = {"__name__": f"on_demand_{function}"}
        try:
            exec(compile(text, f"<{function}>", "exec"), space)  # noqa: S102
        except Exception as error:
            raise ProjectError(
                f"{function} can't be carried to serving: what it reaches can't be run alone:"
                f" {type(error).__name__}: {error}",
                where=where,
                remedy="It runs away from its module: let it use its inputs, plain functions and constants.",
            ) from error
        for name, home in self.homes.items():
            if home in self.taken and _differ(vars(sys.modules[home]).get(name), space.get(name)):
                raise ProjectError(
                    f"{function} can't be carried to serving: {name} of {home} has another value when the"
                    " statements that define it are run again",
                    where=where,
                    remedy=f"Make the value of {name} where it is defined, of constants alone: not in a"
                    " function that changes it, and not of the time, chance or the surroundings.",
                )

    def _order(self, module: str, ordered: dict[str, None], visited: set[str]) -> None:
        if module not in visited:
            visited.add(module)
            for base in self.bases.get(module, ()):
                self._order(base, ordered, visited)
            ordered[module] = None

    def _add(self, module: _Module, place: int, text: str) -> None:
        self.taken.setdefault(module.name, {}).setdefault(place, []).append(text)

    def _claim(self, name: str, home: str, where: str) -> None:
        held = self.homes.setdefault(name, home)
        if held != home:
            raise ProjectError(
                f"an on-demand function reaches two things called {name}: {held} and {home}",
                where=where,
                remedy="Rename one of them.",
            )

    def _statement(self, module: _Module, place: int, statement: ast.stmt) -> None:
        if (module.name, place) in self.done:
            return
        self.done.add((module.name, place))
        where = f"{module.file}:{statement.lineno}"
        stripped = _Stripped(self.decorator).visit(ast.parse(ast.unparse(statement)).body[0])
        self._refuse_imports(module, stripped, where)
        text = ast.unparse(stripped)
        for name in sorted(_bound(stripped) | _reached(text)):
            self.take(module, name, where)
        self._add(module, place, text)

    def _refuse_imports(self, module: _Module, statement: ast.stmt, where: str) -> None:
        """An import within a function or another statement stays as it is, and would fail when serving."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [_base(module, node)]
            else:
                continue
            for name in names:
                if name.partition(".")[0] in (self.project, "feast"):
                    raise ProjectError(
                        f"an on-demand function imports {name} within another statement",
                        where=where,
                        remedy="Import the names it uses at the top of the module: from module import name.",
                    )

    def _import(self, module: _Module, place: int, statement: ast.Import | ast.ImportFrom, name: str) -> None:
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
            self._add(module, place, ast.unparse(single))
        elif not base or f"{base}.{alias.name}" in sys.modules:
            raise ProjectError(
                f"an on-demand function uses the project's module {alias.name} as a whole",
                where=where,
                remedy="Import the names it uses: from module import name.",
            )
        else:
            if base not in self.modules:
                self.modules[base] = _Module.read(base, where)
            self.bases.setdefault(module.name, {})[base] = None
            self.take(self.modules[base], alias.name, where)
            if name != alias.name:
                self._claim(name, module.name, where)
                self._add(module, place, f"{name} = {alias.name}")


def _differ(here: Any, there: Any) -> bool:
    """Whether two values differ, as far as plain data tells: other objects are taken to be the same."""
    if isinstance(here, dict) and isinstance(there, dict):
        return list(here) != list(there) or any(_differ(here[key], there[key]) for key in here)
    if isinstance(here, (list, tuple)) and isinstance(there, (list, tuple)):
        return len(here) != len(there) or any(map(_differ, here, there))
    if isinstance(here, (set, frozenset)) and isinstance(there, (set, frozenset)):
        return len(here) != len(there) or any(type(one) in _PLAIN and one not in there for one in here)
    if type(here) in _PLAIN or type(there) in _PLAIN:
        return type(here) is not type(there) or repr(here) != repr(there)
    return False


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The names whose values a statement at the top of a module changes: CODES["a"] = 1, CODES.update(...)."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for node in ast.iter_child_nodes(statement):
        if (
            isinstance(statement, ast.Expr)
            and isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
        ):
            yield from _root(node.func)
        elif isinstance(node, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _changed(node)  # type: ignore[arg-type]  # they hold statements, as those do
        elif isinstance(node, ast.expr):
            for target in ast.walk(node):
                if isinstance(target, (ast.Subscript, ast.Attribute)) and not isinstance(target.ctx, ast.Load):
                    yield from _root(target)


def _root(node: ast.expr) -> Iterator[str]:
    while isinstance(node, (ast.Subscript, ast.Attribute, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


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
