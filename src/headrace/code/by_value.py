"""Serializes a function by value: as Python text that runs without the project and without Feast.

An on-demand function is written in a module that imports Feast, but runs in a serving process, which never
does. A pickle would import that module again (dill and pickle store importable objects by name), would load
in one version of Python only, and would change when a comment moves its lines. So the function is serialized
as text: the function, and every statement of the project's modules that it reaches or that changes what it
reaches, in their order, without comments and without annotations of functions.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import attrs

from headrace.code.effects import changes_in, stores_in, walk_executed
from headrace.code.param_names import reads_params
from headrace.code.reader import (
    Import,
    SourceModule,
    chain_of,
    decorator_target,
    find_imports,
    names_bound_by,
    names_used_by,
)
from headrace.kernel.errors import ProjectError

__all__ = ["serialize_function"]

_OF_A_MODULE = {"__doc__", "__loader__", "__package__", "__spec__"}  # builtins has its own
_ALWAYS_DEFINED = frozenset([*dir(builtins), "__name__"]) - _OF_A_MODULE
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_checked: weakref.WeakKeyDictionary[FunctionType, str] = weakref.WeakKeyDictionary()


def serialize_function(function: Callable[..., Any], *, decorator: str = "") -> str:
    """The text that defines `function` and all that it reaches, for an empty namespace.

    The text is run once, to check that all values that the function reaches are the same in it.

    Args:
        function: a function defined at the top of a module of the project.
        decorator: the name of a decorator to leave out.

    Raises:
        ProjectError: the function is nested, a lambda or without source; it reaches Feast, a whole module of
            the project (`import shop.text`), or a name that is not defined; or the text cannot run alone, or
            makes other values.
    """
    if not isinstance(function, FunctionType):
        raise ProjectError(f"{function!r} cannot run in serving: it is not a plain function")
    name, module_name = function.__name__, function.__globals__["__name__"]
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    module = _Module.read(module_name, where)
    if function.__closure__ or not any(isinstance(s, _Function) for _, s in module.statements_of(name)):
        raise ProjectError(
            f"{name} cannot run in serving: it is not a plain function at the top of a module",
            where=where,
            remedy="Define it with def at the top of the module.",
        )
    serializer = _Serializer(project=module_name.partition(".")[0], decorator=decorator)
    serializer.add_name(module, name, where)
    text = serializer.text(module_name)
    if (
        _checked.get(function) != text
    ):  # once, because a function that caches its results changes what it reaches
        serializer.check(text, name, where)
        _checked[function] = text
    return text


@attrs.define
class _Module:
    """One module of the project: its statements, and the names that each statement binds or changes."""

    source: SourceModule
    binds: list[set[str]]
    changes: list[set[str]]

    @staticmethod
    def read(name: str, where: str) -> _Module:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None:
            raise ProjectError(f"module {name} has no source file to read the function from", where=where)
        source = SourceModule(name, Path(file))
        binds = [
            names_bound_by(statement) | {imported.local for imported in _own_imports(source, statement)}
            for statement in source.statements
        ]
        return _Module(source, binds, [set(_names_changed_by(statement)) for statement in source.statements])

    def statements_of(self, name: str) -> list[tuple[int, ast.stmt]]:
        """The statements that determine the name's value, each with its number in the module."""
        numbered = enumerate(zip(self.source.statements, self.binds, self.changes, strict=True))
        return [(n, statement) for n, (statement, *names) in numbered if any(name in part for part in names)]

    def star_import_of(self, name: str) -> tuple[int, Import] | None:
        """The last star import that provides the name, as an import of this name alone, with its number."""
        for number, statement in reversed(list(enumerate(self.source.statements))):
            for imported in _own_imports(self.source, statement):
                if imported.local == "*" and name in _star_names(imported.module):
                    return number, Import(name, imported.module, name)
        return None


@attrs.define
class _Serializer:
    """Collects the statements of the text, in the order in which they ran.

    Attributes:
        project: the project's package.
        decorator: the decorator that is left out.
        modules: the modules that were read, by name.
        done: the names and the numbers of statements that were added, each with its module.
        homes: name → the module that defines it, or the import statement that does.
        texts: module → number of a statement → its texts.
        bases: module → the project's modules that it imports from.
    """

    project: str
    decorator: str
    modules: dict[str, _Module] = attrs.field(factory=dict)
    done: set[tuple[str, str | int]] = attrs.field(factory=set)
    homes: dict[str, str] = attrs.field(factory=dict)
    texts: dict[str, dict[int, list[str]]] = attrs.field(factory=dict)
    bases: dict[str, dict[str, None]] = attrs.field(factory=dict)

    def add_name(self, module: _Module, name: str, where: str) -> None:
        """Adds the statements that determine the name's value in the module, and all that they reach."""
        if (module.source.name, name) in self.done:
            return
        statements = module.statements_of(name)
        star = None if statements else module.star_import_of(name)
        if not statements and star is None and name in _ALWAYS_DEFINED:
            return
        self.done.add((module.source.name, name))
        if star is not None:
            self._add_import(module, *star)
        elif not statements:
            raise ProjectError(
                f"an on-demand function uses {name}, which {module.source.path} does not define", where=where
            )
        for number, statement in statements:
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                for imported in module.source.imports_in(statement):
                    if imported.local == name:
                        self._add_import(module, number, imported)
            else:
                if name in module.binds[number]:
                    self._claim(name, module.source.name, where)
                self._add_statement(module, number, statement)

    def text(self, module: str) -> str:
        """The whole text: the statements of each module, after those of the modules that it imports from."""
        ordered: dict[str, None] = {}
        self._order(module, ordered, set())
        lines = [
            line
            for name in ordered
            for _, statement in sorted(self.texts.get(name, {}).items())
            for line in statement
        ]
        return "\n".join(lines) + "\n"

    def check(self, text: str, function: str, where: str) -> None:
        """Runs the text, and compares the values in it with those in the project's modules.

        Raises:
            ProjectError: it fails, or a value differs.
        """
        namespace: dict[str, Any] = {"__name__": f"on_demand_{function}"}
        try:
            exec(compile(text, f"<{function}>", "exec"), namespace)  # noqa: S102
        except Exception as error:
            raise ProjectError(
                f"{function} cannot run in serving: what it reaches cannot run alone:"
                f" {type(error).__name__}: {error}",
                where=where,
                remedy="It runs without its module: use only its inputs, plain functions and constants in it.",
            ) from error
        for name, home in self.homes.items():
            if home in self.texts and _differ(vars(sys.modules[home]).get(name), namespace.get(name)):
                raise ProjectError(
                    f"{function} cannot run in serving: {name} of {home} gets another value when the"
                    " statements that define it run again",
                    where=where,
                    remedy=f"Define {name} by constants alone: do not change it in a function, and do not"
                    " derive it from the time, randomness or the environment.",
                )

    def _order(self, module: str, ordered: dict[str, None], visited: set[str]) -> None:
        if module not in visited:
            visited.add(module)
            for base in self.bases.get(module, ()):
                self._order(base, ordered, visited)
            ordered[module] = None

    def _add_text(self, module: _Module, number: int, text: str) -> None:
        self.texts.setdefault(module.source.name, {}).setdefault(number, []).append(text)

    def _claim(self, name: str, home: str, where: str) -> None:
        other = self.homes.setdefault(name, home)
        if other != home:
            raise ProjectError(
                f"an on-demand function reaches two things called {name}: {other} and {home}",
                where=where,
                remedy="Rename one of them.",
            )

    def _add_statement(self, module: _Module, number: int, statement: ast.stmt) -> None:
        if (module.source.name, number) in self.done:
            return
        self.done.add((module.source.name, number))
        where = f"{module.source.path}:{statement.lineno}"
        if reads_params(module.source, statement):
            statement = _with_value(module.source, statement, where)
        stripped = _Stripper(self.decorator).visit(ast.parse(ast.unparse(statement)).body[0])
        self._refuse_imports(module, stripped, where)
        imported = {part.local for part in _own_imports(module.source, stripped)}
        for name in sorted(names_bound_by(stripped) | imported | names_used_by(stripped)):
            self.add_name(module, name, where)
        self._add_text(module, number, ast.unparse(stripped))

    def _refuse_imports(self, module: _Module, statement: ast.stmt, where: str) -> None:
        """Refuses imports of the project or Feast within a statement: they would fail in serving."""
        for imported in module.source.imports_in(statement):
            if imported.module.partition(".")[0] in (self.project, "feast"):
                raise ProjectError(
                    f"an on-demand function imports {imported.module} within another statement",
                    where=where,
                    remedy="Import the names it uses at the top of the module: from module import name.",
                )

    def _add_import(self, module: _Module, number: int, imported: Import) -> None:
        where = f"{module.source.path}:{module.source.statements[number].lineno}"
        package = imported.module.partition(".")[0]
        if package == "feast":
            raise ProjectError(
                f"an on-demand function reaches {imported.local}, which is Feast's",
                where=where,
                remedy="It runs without Feast: use only its inputs, plain functions and constants in it.",
            )
        if package != self.project:
            self._claim(imported.local, imported.statement, where)
            self._add_text(module, number, imported.statement)
        elif not imported.name or f"{imported.module}.{imported.name}" in sys.modules:
            whole = imported.name or imported.module
            raise ProjectError(
                f"an on-demand function uses the project's module {whole} as a whole",
                where=where,
                remedy="Import the names it uses: from module import name.",
            )
        else:
            base = imported.module
            if base not in self.modules:
                self.modules[base] = _Module.read(base, where)
            self.bases.setdefault(module.source.name, {})[base] = None
            self.add_name(self.modules[base], imported.name, where)
            if imported.local != imported.name:
                self._claim(imported.local, module.source.name, where)
                self._add_text(module, number, f"{imported.local} = {imported.name}")


def _with_value(source: SourceModule, statement: ast.stmt, where: str) -> ast.stmt:
    """`NAME = value` for a statement that takes the value from params.yaml, which serving does not read."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if len(targets) == 1 and isinstance(targets[0], ast.Name):
        name = targets[0].id
        text = f"{name} = {getattr(sys.modules[source.name], name)!r}"
        with contextlib.suppress(SyntaxError, ValueError):  # a value that has no literal
            ast.literal_eval(text.partition(" = ")[2])
            return ast.parse(text).body[0]
    raise ProjectError(
        "an on-demand function reaches a statement that reads params.yaml, which serving does not have",
        where=where,
        remedy='Give the entry a name at the top of the module, as plain data: NAME = params("name").',
    )


def _own_imports(source: SourceModule, statement: ast.stmt) -> Iterator[Import]:
    """The imports that a top-level statement runs; those in bodies of functions do not run."""
    for node in walk_executed(statement):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from find_imports(node, source.package)


def _star_names(module: str) -> set[str]:
    """The names that a star import of the module provides."""
    names = vars(sys.modules[module])
    return set(names.get("__all__", [name for name in names if not name.startswith("_")]))


def _names_changed_by(statement: ast.stmt) -> Iterator[str]:
    """The names whose values a statement at the top of a module changes: CODES["a"] = 1, CODES.update(...)."""
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        for node in walk_executed(statement):
            yield from (chain[0] for chain in (*stores_in(node), *changes_in(node)) if chain)


def _differ(here: Any, there: Any) -> bool:
    """Whether two values differ, as far as plain data shows: other objects count as the same."""
    if isinstance(here, dict) and isinstance(there, dict):
        return list(here) != list(there) or any(_differ(here[key], there[key]) for key in here)
    if isinstance(here, (list, tuple)) and isinstance(there, (list, tuple)):
        return len(here) != len(there) or any(map(_differ, here, there))
    if isinstance(here, (set, frozenset)) and isinstance(there, (set, frozenset)):
        return len(here) != len(there) or any(type(item) in _PLAIN and item not in there for item in here)
    if type(here) in _PLAIN or type(there) in _PLAIN:
        return type(here) is not type(there) or repr(here) != repr(there)
    return False


class _Stripper(ast.NodeTransformer):
    """Removes one decorator, and the annotations of functions, whose names the text would otherwise need."""

    def __init__(self, decorator: str) -> None:
        self.decorator = decorator

    def _strip(self, node: _Function) -> ast.AST:
        node.returns = None
        arguments = node.args
        for argument in [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]:
            if argument is not None:
                argument.annotation = None
        node.decorator_list = [d for d in node.decorator_list if _decorator_name(d) != self.decorator]
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _strip  # noqa: N815 (ast's own names)


def _decorator_name(decorator: ast.expr) -> str:
    return (chain_of(decorator_target(decorator)) or ("",))[-1]
