"""CodeIndex: the digests of all code that a name of a project reaches, directly or through other names.

A piece is a function, class or constant at the top of a module. It reaches every piece of the project that it
names. A statement that changes an object when its module is imported (`RATES["eur"] = 2`, `setup()`,
`@registry.add("x")` above a function) counts for that object, in whichever module it is. Comments, layout and
docstrings do not count. Packages outside the project count by their names only: their versions are in the lock.

What it cannot see: names looked up by text (`getattr(module, name)`, `globals()[name]`), files that the code
reads, and environment variables.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from headrace.code.effects import arguments_in, changes_in, stores_in, walk_executed
from headrace.code.param_names import find_param_names
from headrace.code.reader import (
    Chain,
    SourceModule,
    canonical_text,
    chain_of,
    chains_in,
    decorator_target,
    names_used_by,
)
from headrace.kernel.digest import digest_value

__all__ = ["CodeIndex"]

_DECLARERS = "headrace"  # the package whose decorators make declarations
_SOURCE = "headrace.source"  # the function that makes one too
_METACLASSES = {("type",), ("EnumMeta",), ("EnumType",), ("ABCMeta",)}


class _Ref(NamedTuple):
    """A name at the top of a module; an empty name is the module itself."""

    module: str
    name: str


class _Statement(NamedTuple):
    """A top-level statement, and the module it belongs to."""

    module: str
    node: ast.stmt


class _ProjectNames:
    """The modules of a project, read from their files when they are first needed, and what names in them mean.

    Args:
        files: module name → file (projects.loader.project_files).
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._modules: dict[str, SourceModule] = {}

    def find_redeclared(self) -> Iterator[tuple[str, str, int, int]]:
        """Each name that two decorated declarations of one module bind, so that the first is lost: the
        module, the name, and the lines of the two.

        Raises:
            ProjectError: a file is not valid Python.
        """
        for name in self._files:
            module = self._module(name)
            for bound, statements in module.bindings.items():
                lines = [statement.lineno for statement in statements if _has_declarer(module, statement)]
                for first, second in pairwise(lines):
                    yield name, bound, first, second

    def _module(self, name: str) -> SourceModule:
        if name not in self._modules:
            self._modules[name] = SourceModule(name, self._files[name])
        return self._modules[name]

    def _variables(self, module: SourceModule, chains: Iterable[Chain]) -> set[_Ref]:
        """The variables of the project's modules, or the modules themselves, among the names."""
        return {ref for ref in self._refs(module, chains) if not self._is_definition(ref)}

    def _changed(self, module: SourceModule, chains: Iterable[Chain]) -> set[_Ref]:
        """The objects of the project among the names: variables, and functions and classes whose attributes are
        named (`Registry.add`, `size.register`)."""
        chains = [chain for chain in chains if chain]
        owners = self._functions(module, [chain[:-1] for chain in chains])
        return self._variables(module, chains) | (owners & self._functions(module, chains))

    def _functions(self, module: SourceModule, chains: Iterable[Chain]) -> set[_Ref]:
        """The functions and classes of the project among the names."""
        return {ref for ref in self._refs(module, chains) if self._is_definition(ref)}

    def _refs(self, module: SourceModule, chains: Iterable[Chain]) -> set[_Ref]:
        refs: set[_Ref | str | None] = set()
        for chain in filter(None, chains):
            refs.add(self._resolve(module, chain, {}))
            if chain[0] in module.bindings:  # `RATES |= more` of an imported name changes its object
                refs.add(self._resolve_import(module, chain))
        return {ref for ref in refs if isinstance(ref, _Ref)}

    def _is_definition(self, ref: _Ref) -> bool:
        statements = self._module(ref.module).bindings.get(ref.name, ())
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        return any(isinstance(statement, definitions) for statement in statements)

    def _resolve(
        self, module: SourceModule, chain: Chain, local: Mapping[str, str], path: tuple[str, ...] = ()
    ) -> _Ref | str | None:
        """Resolves a dotted name: to a piece of the project, to a dotted name outside it, or to None for a
        builtin.

        Args:
            module: the module that uses the name.
            chain: the name.
            local: local name → dotted name, of imports within the statement.
            path: the modules whose star imports led here.
        """
        first = chain[0]
        if first in local:
            return self._resolve_dotted([*local[first].split("."), *chain[1:]])
        if first in module.bindings:
            return _Ref(module.name, first)
        return self._resolve_import(module, chain, path)

    def _resolve_import(
        self, module: SourceModule, chain: Chain, path: tuple[str, ...] = ()
    ) -> _Ref | str | None:
        """As `_resolve`, by the module's imports alone."""
        first = chain[0]
        if first in module.imports:
            return self._resolve_dotted([*module.imports[first].split("."), *chain[1:]])
        for star in module.star_imports:
            if star in self._files and star not in path:
                target = self._resolve(self._module(star), chain, {}, (*path, module.name))
                if target is not None:
                    return target
        return None

    def _resolve_dotted(self, parts: list[str]) -> _Ref | str:
        for length in range(len(parts), 0, -1):
            name = ".".join(parts[:length])
            if name not in self._files:
                continue
            if length == len(parts):
                return _Ref(name, "")
            target = self._resolve(self._module(name), tuple(parts[length:]), {})
            return target if target is not None else _Ref(name, parts[length])
        return ".".join(parts)


class CodeIndex(_ProjectNames):
    """The pieces of a project's code.

    Args:
        files: module name → file (projects.loader.project_files).
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(files)
        self._pieces: dict[_Ref, tuple[str, list[_Ref]]] = {}
        self._params: dict[_Ref, tuple[set[str], set[_Ref]]] = {}
        self._changed_by_function: dict[_Ref, set[_Ref]] = {}
        self._effects_by_ref: dict[_Ref, list[_Statement]] | None = None

    def has(self, module: str) -> bool:
        """Whether the module belongs to the project."""
        return module in self._files

    def binds(self, module: str, name: str) -> bool:
        """Whether a statement of the module makes this name, rather than an import."""
        return self.has(module) and name in self._module(module).bindings

    def pieces(self, module: str, name: str, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
        """`module.name` → digest, for the piece and every piece of the project that it reaches.

        A declaration (under a decorator of Headrace, or a source) that another declaration's decorator names is
        an input, not code: it is left out.

        Args:
            module: the module's name.
            name: a name at its top; "" for the whole module.
            without: arguments of Headrace's decorators of the piece itself that are left out, such as `audits`.

        Raises:
            ProjectError: a file is not valid Python.
        """
        return self._reach([_Ref(module, name)], without)

    def lambda_pieces(self, module: str, line: int) -> dict[str, str]:
        """As `pieces`, of the lambdas at the top of the module that begin in a line of its file.

        Raises:
            ProjectError: a file is not valid Python.
        """
        source = self._module(module)
        nodes = [
            node
            for statement in source.statements
            for node in ast.walk(statement)
            if isinstance(node, ast.Lambda) and node.lineno == line
        ]
        refs: set[_Ref] = set()
        texts: list[str] = []
        for node in nodes:
            named, outside = self._names_in(source, node)
            refs |= named
            texts += [canonical_text(node), *outside]
        return {f"{module}.<lambda>": digest_value(texts), **self._reach(sorted(refs))}

    def _reach(self, pending: list[_Ref], without: frozenset[str] = frozenset()) -> dict[str, str]:
        """The digests of these pieces, and of all that they reach. `without` (see `pieces`) is of the first."""
        digests: dict[str, str] = {}
        first = pending[0] if without else None
        while pending:
            ref = pending.pop()
            key = f"{ref.module}.{ref.name}".rstrip(".")
            if key in digests:
                continue
            if ref == first:
                digests[key], reached = self._read_piece(ref, without)
            else:
                if ref not in self._pieces:
                    self._pieces[ref] = self._read_piece(ref)
                digests[key], reached = self._pieces[ref]
            pending += reached
        return digests

    def _read_piece(self, ref: _Ref, without: frozenset[str] = frozenset()) -> tuple[str, list[_Ref]]:
        """The digest of the piece alone, and the pieces that it names."""
        imported, texts = self._imported(ref)
        reached = sorted(imported)
        for statement in self._statements(ref):
            source = self._module(statement.module)
            node = _without_arguments(source, statement.node, without) if without else statement.node
            texts.append(canonical_text(node))
            refs, outside = self._names_in(source, node)
            texts += outside
            reached += sorted(refs)
        return digest_value(texts), reached

    def words(self, module: str, name: str) -> set[str]:
        """Every name, attribute and string in the piece and in the pieces of the project that it reaches. Its
        code can use only the columns whose names are among them.

        Raises:
            ProjectError: a file is not valid Python.
        """
        words: set[str] = set()
        for key in self.pieces(module, name):
            home = next(prefix for prefix in _prefixes(key) if prefix in self._files)
            for statement in self._statements(_Ref(home, key[len(home) + 1 :])):
                for node in ast.walk(statement.node):
                    if isinstance(node, ast.Name):
                        words.add(node.id)
                    elif isinstance(node, ast.Attribute):
                        words.add(node.attr)
                    elif isinstance(node, ast.keyword) and node.arg:
                        words.add(node.arg)
                    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                        words.add(node.value)
        return words

    def param_names(self, module: str, name: str, *, without: frozenset[str] = frozenset()) -> set[str]:
        """The entries of params.yaml that the piece and the pieces that it reaches read (find_param_names).

        Declarations that it reaches are left out: they have their own.

        Args:
            module: the module's name.
            name: a name at its top.
            without: keywords of calls in the piece itself whose values are left out, such as `labels`.

        Raises:
            ProjectError: a file is not valid Python.
        """
        first = _Ref(module, name)
        names: set[str] = set()
        pending, seen = [first], {first}
        while pending:
            ref = pending.pop()
            if ref == first and without:
                read, reached = self._read_params(ref, without)
            else:
                if ref not in self._params:
                    self._params[ref] = self._read_params(ref)
                read, reached = self._params[ref]
            names |= read
            pending += [target for target in reached - seen if not self._is_declaration(target)]
            seen |= reached
        return names

    def _read_params(self, ref: _Ref, without: frozenset[str] = frozenset()) -> tuple[set[str], set[_Ref]]:
        """The entries of params.yaml that the piece itself reads, and the pieces that it names."""
        names: set[str] = set()
        refs, _ = self._imported(ref)
        for statement in self._statements(ref):
            source, node = self._module(statement.module), statement.node
            if without:
                node = _KeywordRemover(without).visit(copy.deepcopy(node))
            names |= find_param_names(source, node)
            refs |= self._names_in(source, node)[0]
        return names, refs

    # --- the statements of a piece ---

    def _statements(self, ref: _Ref) -> list[_Statement]:
        """The statements that define the piece: those that bind it, then those that change it."""
        module = self._module(ref.module)
        binding = module.statements if not ref.name else module.bindings.get(ref.name, [])
        effects = self._effects()
        changing = [*effects.get(ref, ()), *(effects.get(_Ref(ref.module, ""), ()) if ref.name else ())]
        return [
            *(_Statement(ref.module, node) for node in binding),
            *(statement for statement in changing if statement.node not in binding),
        ]

    def _effects(self) -> dict[_Ref, list[_Statement]]:
        """Piece → the top-level statements of the project that change it when their module is imported."""
        if self._effects_by_ref is None:
            effects: dict[_Ref, list[_Statement]] = {}
            for name in sorted(self._files):
                module = self._module(name)
                for node in module.statements:
                    for ref in sorted(self._changes_of_statement(module, node)):
                        effects.setdefault(ref, []).append(_Statement(name, node))
            self._effects_by_ref = effects
        return self._effects_by_ref

    def _imported(self, ref: _Ref) -> tuple[set[_Ref], list[str]]:
        """What a name that the module binds was imported as (`net = cache(net)`): a piece of the project, or a
        dotted name outside it."""
        module = self._module(ref.module)
        target = self._resolve_import(module, (ref.name,)) if ref.name in module.bindings else None
        if isinstance(target, _Ref):
            return {target}, []
        return set(), [target] if target is not None else []

    def _changes_of_statement(self, module: SourceModule, statement: ast.stmt) -> set[_Ref]:
        """The pieces that a top-level statement changes, itself or through what it calls."""
        changed: set[_Ref] = set()
        called: set[_Ref] = set()
        decorators = [
            decorator
            for decorator in getattr(statement, "decorator_list", ())
            if not _is_declarer(module, decorator)
        ]
        # An object's decorator (`@registry.add("x")`) changes that object: it registers the function.
        targets = [chain_of(decorator_target(decorator)) for decorator in decorators]
        changed |= self._changed(module, targets)
        for node in walk_executed(statement, decorators):
            changed |= self._refs(module, stores_in(node))
            changed |= self._changed(module, changes_in(node)) | self._variables(module, arguments_in(node))
            if isinstance(node, ast.Name | ast.Attribute):
                called |= self._functions(module, [chain_of(node)])
            elif isinstance(node, ast.ClassDef):
                family = self._family(module, node)
                called |= family
                changed |= {ref for ref in family if self._sees_new_classes(ref)}
        for ref in called:
            changed |= self._changes_of_call(ref, ())
        return changed

    def _family(self, module: SourceModule, definition: ast.ClassDef) -> set[_Ref]:
        """The classes of the project that a class derives from, and their metaclasses."""
        family: set[_Ref] = set()
        pending = [(module, definition)]
        while pending:
            module, definition = pending.pop()
            parts = [*definition.bases, *(keyword.value for keyword in definition.keywords)]
            for ref in self._functions(module, map(chain_of, parts)) - family:
                family.add(ref)
                home = self._module(ref.module)
                pending += [(home, node) for node in home.bindings[ref.name] if isinstance(node, ast.ClassDef)]
        return family

    def _sees_new_classes(self, ref: _Ref) -> bool:
        """Whether a class may register the classes that derive from it, or whose metaclass it is."""
        for node in self._module(ref.module).bindings[ref.name]:
            if isinstance(node, ast.ClassDef):
                methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                is_metaclass = any(chain_of(base)[-1:] in _METACLASSES for base in node.bases)
                if "__init_subclass__" in methods or is_metaclass:
                    return True
        return False

    def _changes_of_call(self, ref: _Ref, path: tuple[_Ref, ...]) -> set[_Ref]:
        """The pieces that a call of a function or class changes, itself or through what it calls.

        Args:
            ref: the function or class.
            path: the calls that led here.
        """
        if ref in self._changed_by_function or ref in path:
            return self._changed_by_function.get(ref, set())
        module = self._module(ref.module)
        changed: set[_Ref] = set()
        for statement in module.bindings.get(ref.name, ()):
            nodes = list(ast.walk(statement))
            declared_global = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
            outer = names_used_by(statement) | declared_global
            changed |= {_Ref(ref.module, name) for name in declared_global}
            for node in nodes:
                stores, changes, arguments = (
                    [chain for chain in find(node) if chain and chain[0] in outer]
                    for find in (stores_in, changes_in, arguments_in)
                )
                changed |= self._refs(module, stores)
                changed |= self._changed(module, changes) | self._variables(module, arguments)
                chain = chain_of(node.func) if isinstance(node, ast.Call) else ()
                if chain and chain[0] in outer:
                    for called in self._functions(module, [chain]) - {ref}:
                        changed |= self._changes_of_call(called, (*path, ref))
        if not path:  # if calls form a cycle, only the result of its first call is complete
            self._changed_by_function[ref] = changed
        return changed

    # --- the names in a statement ---

    def _names_in(self, module: SourceModule, statement: ast.AST) -> tuple[set[_Ref], list[str]]:
        """The pieces of the project that a statement names, and the dotted names outside the project."""
        refs: set[_Ref] = set()
        outside: list[str] = []
        local = {imported.local: imported.target for imported in module.imports_in(statement)}
        for part, is_declarer in _parts(module, statement):
            for chain in sorted(set(chains_in(part, names_used_by(part) | set(local)))):
                target = self._resolve(module, chain, local)
                if isinstance(target, str):
                    outside.append(target)
                elif target is not None and not (is_declarer and self._is_declaration(target)):
                    refs.add(target)
        return refs, outside

    def _is_declaration(self, ref: _Ref) -> bool:
        module = self._module(ref.module)
        for statement in module.bindings.get(ref.name, []):
            if _has_declarer(module, statement):
                return True
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                chain = chain_of(statement.value.func)
                if chain and ".".join([module.imports.get(chain[0], ""), *chain[1:]]) == _SOURCE:
                    return True
        return False


def _has_declarer(module: SourceModule, statement: ast.stmt) -> bool:
    """Whether the statement is a function or class under a decorator that makes a declaration."""
    return isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and any(
        _is_declarer(module, decorator) for decorator in statement.decorator_list
    )


def _without_arguments(module: SourceModule, statement: ast.stmt, keywords: frozenset[str]) -> ast.stmt:
    """The statement without these arguments of its decorators that make declarations."""
    if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return statement
    bare = copy.deepcopy(statement)
    for decorator in bare.decorator_list:
        if isinstance(decorator, ast.Call) and _is_declarer(module, decorator):
            decorator.keywords = [part for part in decorator.keywords if part.arg not in keywords]
    return bare


def _parts(module: SourceModule, statement: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """The statement's decorators, then the rest; each with whether it is a decorator of Headrace."""
    if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement, False
        return
    for decorator in statement.decorator_list:
        yield decorator, _is_declarer(module, decorator)
    bare = ast.parse(ast.unparse(statement)).body[0]
    assert isinstance(bare, (ast.FunctionDef, ast.ClassDef))
    bare.decorator_list = []
    yield bare, False


def _is_declarer(module: SourceModule, decorator: ast.expr) -> bool:
    chain = chain_of(decorator_target(decorator))
    target = module.imports.get(chain[0]) if chain else None
    return target is not None and target.split(".")[0] == _DECLARERS


class _KeywordRemover(ast.NodeTransformer):
    """Removes the arguments with these keywords from every call."""

    def __init__(self, keywords: frozenset[str]) -> None:
        self._keywords = keywords

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in self._keywords]
        return self.generic_visit(node)


def _prefixes(dotted: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])
