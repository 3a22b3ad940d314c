"""Effects: finds in the source of a statement which objects it changes when it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from headrace.code.reader import Chain, chain_of

__all__ = ["arguments_in", "changes_in", "stores_in", "walk_executed"]

_CHANGE_AND_RETURN = {"setdefault", "pop", "popitem"}  # methods that change their object and return a value


def walk_executed(node: ast.AST, decorators: Iterable[ast.expr] = ()) -> Iterator[ast.AST]:
    """The nodes of a top-level statement that run when its module is imported; bodies of functions do not run.

    Args:
        node: the statement.
        decorators: those of its decorators to include.
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
            yield from walk_executed(child, getattr(child, "decorator_list", ()))


def stores_in(node: ast.AST) -> Iterator[Chain]:
    """The names that this node itself assigns to: `RATES["eur"] = 2`, `Helper.factor = 3`, `RATES |= more`."""
    if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield _innermost_chain(node)
    elif isinstance(node, ast.AugAssign):
        yield chain_of(node.target)


def changes_in(node: ast.AST) -> Iterator[Chain]:
    """The names of the objects whose methods this node itself calls to change them: `RATES.update(...)`."""
    if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in _CHANGE_AND_RETURN:
        yield _innermost_chain(node.func)
    call = _find_unused_call(node)
    if call is not None and isinstance(call.func, ast.Attribute):
        yield _innermost_chain(call.func)


def arguments_in(node: ast.AST) -> Iterator[Chain]:
    """The names of the arguments of a call whose value is not used: the call may change them."""
    call = _find_unused_call(node)
    if call is not None:
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            yield chain_of(argument)


def _find_unused_call(node: ast.AST) -> ast.Call | None:
    return node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None


def _innermost_chain(node: ast.expr) -> Chain:
    """The dotted name that an expression begins with: `a.b` of `a.b["c"].append`."""
    while not chain_of(node) and isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return chain_of(node)
