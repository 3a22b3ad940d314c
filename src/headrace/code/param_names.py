"""Finds the entries of params.yaml that source code reads by `headrace.params("name")`."""

from __future__ import annotations

import ast

from headrace.code.reader import SourceModule, chain_of

__all__ = ["find_param_names", "reads_params"]

_FUNCTION = "headrace.params"


def find_param_names(module: SourceModule, node: ast.AST) -> set[str]:
    """The entries that the code of a module names; "" stands for all: the name is not written as plain text."""
    names = set()
    called = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and _is_function(module, part.func):
            called.add(part.func)
            names.add(_entry_of(part))
    if any(part not in called and _is_function(module, part) for part in ast.walk(node)):
        names.add("")  # it is used other than by a call: `read = params`
    return names


def reads_params(module: SourceModule, node: ast.AST) -> bool:
    """Whether the code uses `headrace.params`."""
    return bool(find_param_names(module, node))


def _is_function(module: SourceModule, node: ast.AST) -> bool:
    chain = chain_of(node)
    return bool(chain) and ".".join([module.imports.get(chain[0], ""), *chain[1:]]) == _FUNCTION


def _entry_of(call: ast.Call) -> str:
    keywords = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
    name = next(iter([*call.args, *keywords]), None)
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
