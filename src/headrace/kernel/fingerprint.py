"""Fingerprint: a digest of what a declaration's code is, so that an edit makes stale what it changes only.

It is read from the source files alone: nothing is imported. A function, class or constant counts
with every function, class and constant of the project that it names, directly or through others.
Comments, layout and docstrings do not count. Packages outside the project count by their names
only: which versions of them are used is for the lock to say.

What it cannot see: names looked up by text (`getattr(module, name)`), and statements of a module
that run for their effect alone.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import symtable
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from headrace.kernel.errors import ProjectError

__all__ = ["Sources", "code_digest", "digest", "fingerprint"]

_DECLARERS = "headrace"


class _Ref(NamedTuple):
    """A name at the top of a module; an empty name is the module itself."""

    module: str
    name: str


class _Module:
    """One source file: its top-level statements, by the names that they bind."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        try:
            self.text = path.read_text(encoding="utf-8")
            tree = ast.parse(self.text, filename=str(path))
        except SyntaxError as error:
            raise ProjectError(
                f"it is not valid Python: {error.msg}", where=f"{path}:{error.lineno}"
            ) from error
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.statements = tree.body
        self.bound: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, str] = {}
        self.stars: list[str] = []
        for statement in tree.body:
            for one in _bound_by(statement):
                self.bound.setdefault(one, []).append(statement)
            for local, target in self.imports_in(statement):
                if local == "*":
                    self.stars.append(target)
                else:
                    self.imported[local] = target

    def imports_in(self, node: ast.AST) -> Iterator[tuple[str, str]]:
        """Local name → absolute dotted name, for each import statement in `node`."""
        for one in ast.walk(node):
            if isinstance(one, ast.Import):
                for alias in one.names:
                    top = alias.name.split(".")[0]
                    yield (alias.asname, alias.name) if alias.asname else (top, top)
            elif isinstance(one, ast.ImportFrom):
                base = one.module or ""
                if one.level:
                    parts = self.package.split(".")
                    parent = ".".join(parts[: len(parts) - one.level + 1])
                    base = f"{parent}.{base}" if base else parent
                for alias in one.names:
                    if alias.name == "*":
                        yield "*", base
                    else:
                        yield alias.asname or alias.name, f"{base}.{alias.name}"


class Sources:
    """The modules of a project, read from their files when they are first needed.

    Args:
        files: module name → file (config.loader.project_files).
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._modules: dict[str, _Module] = {}

    def has(self, module: str) -> bool:
        """Whether the module is the project's."""
        return module in self._files

    def pieces(self, module: str, name: str) -> dict[str, str]:
        """`module.name` → digest, for the named piece and every piece of the project that it reaches.

        A declaration (under a decorator of Headrace's) that is named in another declaration's
        decorator is an input, not code: it counts by its name.

        Raises:
            ProjectError: a file is not valid Python.
        """
        found: dict[str, str] = {}
        waiting = [_Ref(module, name)]
        while waiting:
            ref = waiting.pop()
            key = f"{ref.module}.{ref.name}".rstrip(".")
            if key in found:
                continue
            found[key] = ""
            texts: list[str] = []
            for statement in self._statements(ref):
                texts.append(_canonical(statement))
                waiting.extend(sorted(self._named_in(self._module(ref.module), statement, texts)))
            found[key] = digest(texts)
        return found

    def words(self, module: str, name: str) -> set[str]:
        """Every name, attribute and text in the named piece and the pieces of the project that it reaches:
        what its code can speak of.

        Raises:
            ProjectError: a file is not valid Python.
        """
        found: set[str] = set()
        for key in self.pieces(module, name):
            home = next(m for m in _prefixes(key) if m in self._files)
            for statement in self._statements(_Ref(home, key[len(home) + 1 :])):
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name):
                        found.add(node.id)
                    elif isinstance(node, ast.Attribute):
                        found.add(node.attr)
                    elif isinstance(node, ast.keyword) and node.arg:
                        found.add(node.arg)
                    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                        found.add(node.value)
        return found

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = _Module(name, self._files[name])
        return self._modules[name]

    def _statements(self, ref: _Ref) -> list[ast.stmt]:
        module = self._module(ref.module)
        return module.statements if not ref.name else module.bound.get(ref.name, [])

    def _named_in(self, module: _Module, statement: ast.stmt, outside: list[str]) -> set[_Ref]:
        """What of the project a statement names; what lies outside is added to `outside` by name."""
        refs: set[_Ref] = set()
        local = dict(module.imports_in(statement))
        for part, declares in self._parts(module, statement):
            for chain in sorted(set(_chains(part, _free_names(part) | set(local)))):
                ref = self._resolved(module, chain, local)
                if isinstance(ref, str):
                    outside.append(ref)
                elif ref is not None and not (declares and self._is_declaration(ref)):
                    refs.add(ref)
        return refs

    def _parts(self, module: _Module, statement: ast.stmt) -> Iterator[tuple[ast.AST, bool]]:
        """Decorators, then the rest, each with its own names; and whether it is Headrace's decorator."""
        if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield statement, False
            return
        for decorator in statement.decorator_list:
            yield decorator, self._declares(module, decorator)
        bare = ast.parse(ast.unparse(statement)).body[0]
        assert isinstance(bare, (ast.FunctionDef, ast.ClassDef))
        bare.decorator_list = []
        yield bare, False

    def _declares(self, module: _Module, decorator: ast.expr) -> bool:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        chain = _chain(called)
        target = module.imported.get(chain[0]) if chain else None
        return target is not None and target.split(".")[0] == _DECLARERS

    def _is_declaration(self, ref: _Ref) -> bool:
        module = self._module(ref.module)
        return any(
            self._declares(module, decorator)
            for statement in module.bound.get(ref.name, [])
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef))
            for decorator in statement.decorator_list
        )

    def _resolved(self, module: _Module, chain: tuple[str, ...], local: Mapping[str, str]) -> _Ref | str | None:
        """A piece of the project; the dotted name of what lies outside; None for a builtin."""
        first = chain[0]
        if first in local:
            return self._dotted([*local[first].split("."), *chain[1:]])
        if first in module.bound:
            return _Ref(module.name, first)
        if first in module.imported:
            return self._dotted([*module.imported[first].split("."), *chain[1:]])
        for star in module.stars:
            if star in self._files and first in self._module(star).bound:
                return _Ref(star, first)
        return None

    def _dotted(self, parts: list[str]) -> _Ref | str:
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            if name not in self._files:
                continue
            if length == len(parts):
                return _Ref(name, "")
            found = self._resolved(self._module(name), tuple(parts[length:]), {})
            return found if found is not None else _Ref(name, parts[length])
        return ".".join(parts)


def fingerprint(declared: Any, sources: Sources) -> str:
    """The digest of a declaration.

    A function or class counts by its code (Sources.pieces); an object that is a dataclass by its
    fields, a declaration inside it (one with a `place`) by its name; anything else by its value.

    Args:
        declared: a function, a class, or an object made of dataclasses, containers and plain values.
        sources: the project's sources.

    Raises:
        ProjectError: a file is not valid Python.
    """
    return digest(_described(declared, sources, top=True))


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON-ready value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(function: Callable[..., Any]) -> str:
    """The digest of one function's own code, without comments, layout and docstrings; of its name alone
    where its source is not to be had (a lambda, a session)."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return digest(getattr(function, "__qualname__", repr(function)))
    return digest([_canonical(one) for one in tree.body])


def _prefixes(dotted: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def _described(value: Any, sources: Sources, *, top: bool = False) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if inspect.isfunction(value) or inspect.isclass(value):
        module, name = value.__module__, value.__qualname__.split(".")[0]
        return sources.pieces(module, name) if sources.has(module) else f"{module}.{value.__qualname__}"
    if is_dataclass(value):
        shown = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "place"}
        if not top and hasattr(value, "place"):
            return [type(value).__qualname__, shown.get("name", shown.get("topic"))]
        return [type(value).__qualname__, {n: _described(v, sources) for n, v in shown.items()}]
    if isinstance(value, Mapping):
        return {str(key): _described(one, sources) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(one, sources) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(one) for one in value)
    return repr(value)


def _bound_by(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement binds or changes (imports aside)."""
    names: set[str] = set()
    for node in _outside_of_scopes(statement):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            names.update(_root(node))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        function = statement.value.func  # `RATES.update(...)` changes RATES
        if isinstance(function, ast.Attribute):
            names.update(_root(function))
    return names


def _outside_of_scopes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(node):
        yield from _outside_of_scopes(child)


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _canonical(statement: ast.stmt) -> str:
    """The statement as text, without comments, layout and docstrings."""
    tree = ast.parse(ast.unparse(statement))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _free_names(node: ast.AST) -> set[str]:
    """The names that the code takes from its module: no parameters, no local variables."""
    names: set[str] = set()
    waiting = [symtable.symtable(ast.unparse(node), "<statement>", "exec")]
    top = waiting[0]
    while waiting:
        table = waiting.pop()
        waiting.extend(table.get_children())
        names.update(
            s.get_name() for s in table.get_symbols() if s.is_referenced() and (table is top or s.is_global())
        )
    return names


def _chains(node: ast.AST, names: set[str]) -> Iterator[tuple[str, ...]]:
    """Each longest dotted name in the code that begins with one of `names`."""
    chain = _chain(node)
    if chain:
        if chain[0] in names:
            yield chain
        return
    for child in ast.iter_child_nodes(node):
        yield from _chains(child, names)


def _chain(node: ast.AST) -> tuple[str, ...]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else ()
