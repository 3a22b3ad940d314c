"""Reads Python source, without importing it: what a module's statements bind, use, import and name.

Fingerprints, functions by value and the loader all read source through this module.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from headrace.kernel.errors import ProjectError

__all__ = [
    "Chain",
    "Import",
    "SourceModule",
    "canonical_text",
    "chain_of",
    "chains_in",
    "decorator_target",
    "file_text",
    "find_imports",
    "names_bound_by",
    "names_used_by",
]

Chain = tuple[str, ...]
"""The parts of a dotted name; empty for an expression that is not a dotted name."""

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Import(NamedTuple):
    """One name that an import statement binds.

    Attributes:
        local: the name that it binds; "*" for a star import.
        module: the absolute name of the module that is imported, or imported from.
        name: the name that is imported from the module; "" if the module itself is imported.
        is_renamed: whether it has an `as`.
    """

    local: str
    module: str
    name: str = ""
    is_renamed: bool = False

    @property
    def target(self) -> str:
        """The dotted name that `local` refers to: `a` for `import a.b`."""
        if self.name:
            return f"{self.module}.{self.name}"
        return self.module if self.is_renamed else self.local

    @property
    def statement(self) -> str:
        """The import alone, as Python text."""
        suffix = f" as {self.local}" if self.is_renamed else ""
        return (f"from {self.module} import {self.name}" if self.name else f"import {self.module}") + suffix


class SourceModule:
    """One source file: its top-level statements, and the names that they bind and import.

    Attributes:
        name: the module's absolute name.
        path: the file.
        package: the package that relative imports are relative to.
        statements: its top-level statements, in order.
        bindings: name → the statements that bind it, imports aside; none for a name that only functions bind
            (`global x`).
        imports: name → the dotted name that it refers to, for each name that an import in the module binds.
        star_imports: the modules that it imports everything from, in order.

    Raises:
        ProjectError: the file is not valid Python.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.statements = _parse(path).body
        self.bindings: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, str] = {}
        self.star_imports: list[str] = []
        for statement in self.statements:
            for bound in names_bound_by(statement):
                self.bindings.setdefault(bound, []).append(statement)
            for node in ast.walk(statement):
                for bound in node.names if isinstance(node, ast.Global) else ():
                    self.bindings.setdefault(bound, [])
            for imported in self.imports_in(statement):
                if imported.local == "*":
                    self.star_imports.append(imported.module)
                else:
                    self.imports[imported.local] = imported.target

    def imports_in(self, node: ast.AST) -> Iterator[Import]:
        """Every name that import statements in the node bind."""
        return find_imports(node, self.package)


def _parse(path: Path) -> ast.Module:
    """The syntax tree of a file. Raises ProjectError if it is not valid Python."""
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise ProjectError(f"it is not valid Python: {error.msg}", where=f"{path}:{error.lineno}") from error


def find_imports(node: ast.AST, package: str) -> Iterator[Import]:
    """Every name that import statements in the node bind; relative imports are resolved from the package."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                local = alias.asname or alias.name.partition(".")[0]
                yield Import(local, alias.name, is_renamed=alias.asname is not None)
        elif isinstance(statement, ast.ImportFrom):
            module = _absolute_module(statement, package)
            for alias in statement.names:
                yield Import(alias.asname or alias.name, module, alias.name, alias.asname is not None)


def _absolute_module(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    parent = parts[: len(parts) - statement.level + 1]
    return ".".join([*parent, *([statement.module] if statement.module else [])])


def names_bound_by(statement: ast.AST) -> set[str]:
    """The names that a statement binds in its own scope, imports aside."""
    names: set[str] = set()
    for node in _own_scope(statement):
        if isinstance(node, _SCOPES):
            names.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
    return names


def _own_scope(node: ast.AST) -> Iterator[ast.AST]:
    """The node and those in it that belong to its scope; a comprehension's variables belong to its own."""
    yield node
    if isinstance(node, (*_SCOPES, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.comprehension) and child is node.target):
            yield from _own_scope(child)


def names_used_by(node: ast.AST) -> set[str]:
    """The names that the code takes from its module or from Python, without parameters and local variables."""
    top = symtable.symtable(ast.unparse(node), "<statement>", "exec")
    names: set[str] = set()
    pending = [top]
    while pending:
        table = pending.pop()
        pending.extend(table.get_children())
        names.update(
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (table is top or symbol.is_global())
        )
    return names


def chain_of(node: ast.AST) -> Chain:
    """The dotted name that an expression consists of; empty for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()


def chains_in(node: ast.AST, names: set[str]) -> Iterator[Chain]:
    """Each longest dotted name in the code that begins with one of the names."""
    chain = chain_of(node)
    if chain:
        if chain[0] in names:
            yield chain
        return
    for child in ast.iter_child_nodes(node):
        yield from chains_in(child, names)


def decorator_target(decorator: ast.expr) -> ast.expr:
    """The expression that names the decorator: `table` of `@table(reads=x)`."""
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def canonical_text(statement: ast.AST) -> str:
    """The statement as text, without comments, layout and docstrings."""
    return _unparse_code(ast.parse(ast.unparse(statement)))


def file_text(path: Path) -> str:
    """The statements of a file as text, as `canonical_text`. Raises ProjectError if it is not valid Python."""
    return _unparse_code(_parse(path))


def _unparse_code(tree: ast.Module) -> str:
    """The tree as text, without the docstrings in it, which are removed from the tree too."""
    for node in ast.walk(tree):
        if isinstance(node, _SCOPES) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
