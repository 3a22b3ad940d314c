"""Reads the Python of a page without running it: do the names of Headrace exist, with these arguments?

The type of a value is followed from where it is made through attributes, calls and loops, by the annotations of
the code. A value whose type is not known is not judged.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import headrace
from headrace.api import OpenProject

__all__ = ["check_python"]

LEFT_OUT = re.compile(r"(?<=[,(])(\s*)\.\.\.(?=\s*[,)\n])")  # f(a, ..., b=1)


@dataclass(frozen=True)
class Instance:
    """A value of which only the type is known."""

    type: Any


@dataclass(frozen=True)
class Method:
    """A function that gets its first argument from the instance."""

    function: Any


def check_python(blocks: Iterable[str]) -> Iterator[str]:
    """What is wrong in the Python blocks of a page, which share their names."""
    names: dict[str, Any] = {"project": Instance(OpenProject)}
    for block in blocks:
        text = LEFT_OUT.sub(r"\1**_", block)
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            yield f"{error}: {block}"
            continue
        reader = _Reader(names)
        reader.visit(tree)
        yield from reader.faults


class _Reader(ast.NodeVisitor):
    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.faults: list[str] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.partition(".")[0] == "headrace":
                importlib.import_module(alias.name)
                self.names[alias.asname or "headrace"] = headrace

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").partition(".")[0] != "headrace":
            return
        for alias in node.names:
            try:
                module = importlib.import_module(node.module or "")
                with contextlib.suppress(ImportError):
                    importlib.import_module(f"{node.module}.{alias.name}")
                self.names[alias.asname or alias.name] = getattr(module, alias.name)
            except (ImportError, AttributeError) as error:
                self.faults.append(f"from {node.module} import {alias.name}: {error}")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.generic_visit(node)
        self.names[node.name] = None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            self.evaluate(decorator)
        self.names[node.name] = None

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.evaluate(node.value)
        for target in node.targets:
            self.assign(target, value)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            value = self.evaluate(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value)
        for statement in node.body:
            self.visit(statement)

    def visit_For(self, node: ast.For) -> None:
        self.assign(node.target, take_element(self.evaluate(node.iter)))
        for statement in node.body:
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        self.evaluate(node.value)

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple):
            for element in target.elts:
                self.assign(element, take_element(value))

    def evaluate(self, node: ast.expr) -> Any:
        """The object that the expression names, an Instance or Method; None where that is not known."""
        if isinstance(node, ast.Name):
            return self.names[node.id] if node.id in self.names else getattr(headrace, node.id, None)
        if isinstance(node, ast.Attribute):
            return self.take_attribute(self.evaluate(node.value), node)
        if isinstance(node, ast.Call):
            function = self.evaluate(node.func)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self.evaluate(argument)
            return self.call(function, node)
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.expr):
                self.evaluate(inner)
        return None

    def take_attribute(self, value: Any, node: ast.Attribute) -> Any:
        if value is None:
            return None
        if not isinstance(value, Instance):
            if not hasattr(value, node.attr):
                self.faults.append(f"{ast.unparse(node)}: does not exist")
            return getattr(value, node.attr, None)
        hints = find_hints(value.type)
        if node.attr in hints:
            return make_instance(hints[node.attr])
        if not hasattr(value.type, node.attr):
            if not hasattr(value.type, "__getattr__"):
                self.faults.append(f"{ast.unparse(node)}: {value.type.__name__} has no {node.attr}")
            return None
        member = inspect.getattr_static(value.type, node.attr)
        if isinstance(member, property):
            return make_instance(find_hints(member.fget).get("return"))
        return Method(member) if inspect.isfunction(member) else None

    def call(self, function: Any, node: ast.Call) -> Any:
        called = function.function if isinstance(function, Method) else function
        if called is None or isinstance(called, Instance) or not callable(called):
            return None
        try:
            signature = inspect.signature(called)
        except (ValueError, TypeError):
            return None
        known = [argument for argument in node.args if not isinstance(argument, ast.Starred)]
        named = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
        is_whole = len(known) == len(node.args) and len(named) == len(node.keywords)
        bind = signature.bind if is_whole else signature.bind_partial
        try:
            bind(*([None] * (isinstance(function, Method) + len(known))), **named)
        except TypeError as error:
            self.faults.append(f"{ast.unparse(node)}: {error}")
        if inspect.isclass(called):
            return Instance(called)
        return make_instance(find_hints(called).get("return"))


def find_hints(value: Any) -> dict[str, Any]:
    """The annotations of a class or function."""
    try:
        return typing.get_type_hints(value, localns=import_types(value.__module__))
    except (AttributeError, NameError, TypeError):  # built in, or a type that nothing can import
        return {}


@functools.cache
def import_types(module: str) -> dict[str, Any]:
    """What a module of Headrace imports only for its annotations."""
    names: dict[str, Any] = {}
    if module.partition(".")[0] == "headrace":
        for node in ast.parse(inspect.getsource(sys.modules[module])).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                exec(compile(ast.Module(node.body, []), module, "exec"), names)
    return names


def make_instance(hint: Any) -> Instance | None:
    """A value of the annotated type; of `T | None` one of T."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return make_instance(options[0]) if len(options) == 1 else None
    if typing.get_origin(hint) is not None or inspect.isclass(hint):
        return Instance(hint)
    return None


def take_element(value: Any) -> Instance | None:
    """An element of a value that is annotated as list[T], tuple[T, ...] or Iterator[T]."""
    arguments = typing.get_args(value.type) if isinstance(value, Instance) else ()
    kinds = {argument for argument in arguments if argument is not Ellipsis}
    return make_instance(kinds.pop()) if len(kinds) == 1 else None
