"""Fingerprint: a digest of what a declaration's code is, so that an edit makes stale what it changes only.

It is read from the source files alone: nothing is imported. A function, class or constant counts
with every function, class and constant of the project that it names, directly or through others.
A statement that changes an object when its module is imported (`RATES["eur"] = 2`, `setup()`,
`@registry.add("x")` above a function) counts for that object, in whichever module it stands.
Comments, layout and docstrings do not count. Packages outside the project count by their names
only: which versions of them are used is for the lock to say.

What it cannot see: names looked up by text (`getattr(module, name)`, `globals()[name]`), files that
the code reads, and environment variables.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import pickle
import re
import symtable
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import CellType
from typing import Any, NamedTuple

import attrs

from headrace.kernel.errors import ProjectError

__all__ = ["CodeIndex", "code_digest", "digest", "external_digests", "fingerprint", "values_digest"]

_DECLARERS = "headrace"
_CHANGES_AND_ANSWERS = {"setdefault", "pop", "popitem"}  # methods that change their object, used for a value
_DATA_PACKAGES = {"numpy", "pandas", "polars", "pyarrow"}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

Chain = tuple[str, ...]
"""A dotted name, in its parts."""


class _Ref(NamedTuple):
    """A name at the top of a module; an empty name is the module itself."""

    module: str
    name: str


class _Statement(NamedTuple):
    """A top-level statement, and the module it stands in."""

    module: str
    node: ast.stmt


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


class CodeIndex:
    """The modules of a project, read from their files when they are first needed.

    Args:
        files: module name → file (config.loader.project_files).
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._modules: dict[str, _Module] = {}
        self._changed_by_function: dict[_Ref, set[_Ref]] = {}
        self._effects_index: dict[_Ref, list[_Statement]] | None = None

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
                texts.append(_canonical(statement.node))
                home = self._module(statement.module)
                waiting.extend(sorted(self._named_in(home, statement.node, texts)))
            found[key] = digest(texts)
        return found

    def binds(self, module: str, name: str) -> bool:
        """Whether a statement of the module makes this name, rather than an import."""
        return self.has(module) and name in self._module(module).bound

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
                for node in ast.walk(statement.node):
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

    def _statements(self, ref: _Ref) -> list[_Statement]:
        """The statements that make the piece what it is: those that bind it, then those that change it."""
        module = self._module(ref.module)
        bound = module.statements if not ref.name else module.bound.get(ref.name, [])
        own = [_Statement(ref.module, node) for node in bound]
        effects = self._effects()
        changing = [*effects.get(ref, ()), *(effects.get(_Ref(ref.module, ""), ()) if ref.name else ())]
        return [*own, *(statement for statement in changing if statement.node not in bound)]

    def _effects(self) -> dict[_Ref, list[_Statement]]:
        """Piece → the top-level statements of the project that change it when their module is imported."""
        if self._effects_index is None:
            index: dict[_Ref, list[_Statement]] = {}
            for name in sorted(self._files):
                module = self._module(name)
                for node in module.statements:
                    for ref in sorted(self._changed_by_statement(module, node)):
                        index.setdefault(ref, []).append(_Statement(name, node))
            self._effects_index = index
        return self._effects_index

    def _changed_by_statement(self, module: _Module, statement: ast.stmt) -> set[_Ref]:
        """What of the project a top-level statement changes, itself or by what it calls."""
        changed: set[_Ref] = set()
        calls: set[_Ref] = set()
        decorators = [
            one for one in getattr(statement, "decorator_list", ()) if not self._declares(module, one)
        ]
        # An object's decorator (`@registry.add("x")`) changes that object: it takes the function in.
        changed |= self._variables(module, [_chain(_called(one)) for one in decorators])
        for node in _executed(statement, decorators):
            changed |= self._variables(module, _changed_in(node))
            if isinstance(node, ast.Name | ast.Attribute):
                calls |= self._functions(module, [_chain(node)])
        for ref in calls:
            changed |= self._changed_by(ref, ())
        return changed

    def _changed_by(self, ref: _Ref, path: tuple[_Ref, ...]) -> set[_Ref]:
        """What of the project a function or class changes when it is called, itself or by what it calls."""
        if ref in self._changed_by_function or ref in path:
            return self._changed_by_function.get(ref, set())
        module = self._module(ref.module)
        changed: set[_Ref] = set()
        for statement in module.bound.get(ref.name, ()):
            own = {name for node in ast.walk(statement) if isinstance(node, ast.Global) for name in node.names}
            outer = _free_names(statement) | own
            changed |= {_Ref(ref.module, name) for name in own if name in module.bound}
            for node in ast.walk(statement):
                chains = [chain for chain in _changed_in(node) if chain and chain[0] in outer]
                changed |= self._variables(module, chains)
                if isinstance(node, ast.Call):
                    chain = _chain(node.func)
                    if chain and chain[0] in outer:
                        for called in self._functions(module, [chain]) - {ref}:
                            changed |= self._changed_by(called, (*path, ref))
        if not path:  # within a circle of calls the answer is whole only for the one it began with
            self._changed_by_function[ref] = changed
        return changed

    def _variables(self, module: _Module, chains: Iterable[Chain]) -> set[_Ref]:
        """Those of the names that are variables of the project's modules, or its modules themselves."""
        return {ref for ref in self._pieces_named(module, chains) if not self._is_definition(ref)}

    def _functions(self, module: _Module, chains: Iterable[Chain]) -> set[_Ref]:
        """Those of the names that are functions and classes of the project."""
        return {ref for ref in self._pieces_named(module, chains) if self._is_definition(ref)}

    def _pieces_named(self, module: _Module, chains: Iterable[Chain]) -> set[_Ref]:
        refs = (self._resolved(module, chain, {}) for chain in chains if chain)
        return {ref for ref in refs if isinstance(ref, _Ref)}

    def _is_definition(self, ref: _Ref) -> bool:
        statements = self._module(ref.module).bound.get(ref.name, ())
        return any(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for one in statements)

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
        chain = _chain(_called(decorator))
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

    def _resolved(
        self, module: _Module, chain: Chain, local: Mapping[str, str], passed: tuple[str, ...] = ()
    ) -> _Ref | str | None:
        """A piece of the project; the dotted name of what lies outside; None for a builtin.

        Args:
            passed: the modules whose star imports led here.
        """
        first = chain[0]
        if first in local:
            return self._dotted([*local[first].split("."), *chain[1:]])
        if first in module.bound:
            return _Ref(module.name, first)
        if first in module.imported:
            return self._dotted([*module.imported[first].split("."), *chain[1:]])
        for star in module.stars:
            if star in self._files and star not in passed:
                found = self._resolved(self._module(star), chain, {}, (*passed, module.name))
                if found is not None:
                    return found
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


def fingerprint(declared: Any, sources: CodeIndex) -> str:
    """The digest of a declaration.

    A function or class counts by its code (CodeIndex.pieces); an object of attrs or dataclasses by its
    fields, a declaration inside it (one with a `place`) by its name; anything else by its value.

    Args:
        declared: a function, a class, or an object made of records (attrs, dataclasses),
            containers and plain values.
        sources: the project's sources.

    Raises:
        ProjectError: a file is not valid Python.
    """
    return digest(_described(declared, sources, top=True))


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of a JSON-ready value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def values_digest(function: Callable[..., Any], sources: CodeIndex) -> str | None:
    """The digest of the values that a function holds beside its code (a table that `make(2)` returned holds
    the 2), or None where it holds none."""
    held = _made_with(function)
    return digest(_described(held, sources)) if held else None


def external_digests(
    root: Path, files: Iterable[str] = (), env: Iterable[str] = ()
) -> dict[str, dict[str, str]]:
    """What code reads beside its arguments: path → digest of the file, name → digest of the variable's value.

    A file that does not exist and a variable that is not set have an empty digest.

    Args:
        root: the folder that the paths begin at.
        files: paths.
        env: names of environment variables.
    """

    def file_digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""

    return {
        "files": {path: file_digest(root / path) for path in sorted(set(files))},
        "env": {name: digest(os.environ[name]) if name in os.environ else "" for name in sorted(set(env))},
    }


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


def _described(value: Any, sources: CodeIndex, *, top: bool = False, path: tuple[int, ...] = ()) -> Any:
    """The value, ready for JSON, the same in every process.

    Args:
        value: what is described.
        sources: the project's sources.
        top: it is the declaration itself, not one that another names.
        path: the ids of the objects around it; one that holds itself is described once.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if id(value) in path:
        return "itself"

    def describe(part: Any) -> Any:
        return _described(part, sources, path=(*path, id(value)))

    if inspect.isfunction(value) or inspect.isclass(value):
        pieces = _pieces_of(value, sources)
        made_with = _made_with(value) if inspect.isfunction(value) and isinstance(pieces, dict) else {}
        return [pieces, describe(made_with)] if made_with else pieces
    if attrs.has(type(value)) or is_dataclass(value):
        names = [part.name for part in (attrs.fields(type(value)) if attrs.has(type(value)) else fields(value))]
        shown = {name: getattr(value, name) for name in names if name != "place"}
        if not top and hasattr(value, "place"):
            return [type(value).__qualname__, shown.get("name", shown.get("topic"))]
        return [type(value).__qualname__, describe(shown)]
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(describe(part), sort_keys=True) for part in value)
    if isinstance(value, partial):
        return ["partial", describe([value.func, value.args, value.keywords])]
    if inspect.ismethod(value):
        return ["method", describe([value.__func__, value.__self__])]
    if inspect.ismodule(value):
        return sources.pieces(value.__name__, "") if sources.has(value.__name__) else value.__name__
    if sources.has(type(value).__module__):
        return [_pieces_of(type(value), sources), describe(getattr(value, "__dict__", {}))]
    return _shown(value)


def _pieces_of(named: Any, sources: CodeIndex) -> dict[str, str] | str:
    """The pieces of a function or class of the project; the dotted name of another."""
    module, name = named.__module__, named.__qualname__.split(".")[0]
    return sources.pieces(module, name) if sources.has(module) else f"{module}.{named.__qualname__}"


def _made_with(function: Any) -> dict[str, Any]:
    """What a function that another one made holds of that call: the variables it uses, its defaults.

    (Those of a function at the top of its module stand in its text, and in what that names.)
    """
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    empty = CellType()  # of a variable that has no value yet
    held = {name: cell.cell_contents for name, cell in cells if cell != empty}
    if "<locals>" in function.__qualname__:
        held["defaults"] = [function.__defaults__, function.__kwdefaults__]
    return held


def _shown(value: Any) -> str:
    """An object of a package outside the project as text: data whole, others without their addresses."""
    if type(value).__module__.split(".")[0] in _DATA_PACKAGES:
        try:
            return hashlib.sha256(pickle.dumps(value)).hexdigest()
        except (pickle.PicklingError, TypeError, AttributeError):
            return _ADDRESS.sub("", str(value))  # an expression over a function that can't be pickled
    return _ADDRESS.sub("", repr(value))


def _bound_by(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement binds (imports aside)."""
    names: set[str] = set()
    for node in _outside_of_scopes(statement):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _outside_of_scopes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    for child in ast.iter_child_nodes(node):
        yield from _outside_of_scopes(child)


def _executed(node: ast.AST, decorators: Iterable[ast.expr] = ()) -> Iterator[ast.AST]:
    """The nodes of a top-level statement that run when its module is imported: no bodies of functions.

    Args:
        node: the statement.
        decorators: those of its decorators that count.
    """
    yield node
    children: Iterable[ast.AST | None] = ast.iter_child_nodes(node)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        children = [*decorators, *node.args.defaults, *node.args.kw_defaults]
    elif isinstance(node, ast.Lambda):
        children = [*node.args.defaults, *node.args.kw_defaults]
    elif isinstance(node, ast.ClassDef):
        children = [*decorators, *node.bases, *node.keywords, *node.body]
    for child in children:
        if child is not None:
            yield from _executed(child, getattr(child, "decorator_list", ()))


def _changed_in(node: ast.AST) -> Iterator[Chain]:
    """The names of what this node changes: what it stores into, whose method it calls for no value, what
    it gives to a function that it calls for no value."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield _innermost(node)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in _CHANGES_AND_ANSWERS:
        yield _innermost(node.func)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if isinstance(call.func, ast.Attribute):
            yield _innermost(call.func)
        for given in (*call.args, *(keyword.value for keyword in call.keywords)):
            yield _chain(given)


def _innermost(node: ast.expr) -> Chain:
    """The dotted name that an expression begins with: `a.b` of `a.b["c"].append`."""
    while not _chain(node) and isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return _chain(node)


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


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
