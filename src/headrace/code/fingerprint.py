"""Fingerprint: a digest of a declaration and its code, so that an edit makes stale only what it changes.

Functions and classes of the project are read from their source files (CodeIndex); values count as they are.
"""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import CellType
from typing import Any

import attrs

from headrace.code.index import CodeIndex
from headrace.code.reader import canonical_text
from headrace.kernel.digest import digest_bytes, digest_value

__all__ = ["code_digest", "fingerprint", "values_digest"]

_DATA_PACKAGES = {"numpy", "pandas", "polars", "pyarrow"}
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(declared: Any, index: CodeIndex) -> str:
    """The digest of a declaration.

    A function or class counts by its code (CodeIndex.pieces), a record by its fields, a declaration inside
    another (an object with a `place`) by its name, anything else by its value.

    Args:
        declared: a function, a class, or an object made of records (attrs, dataclasses), containers
            and plain values.
        index: the project's code.

    Raises:
        ProjectError: a file is not valid Python.
    """
    return digest_value(_describe(declared, index, is_top=True))


def values_digest(function: Callable[..., Any], index: CodeIndex) -> str | None:
    """The digest of the values that a function holds besides its code, or None if it holds none.

    A function that another function returned holds variables of that call, such as the 2 of `make(2)`.
    """
    values = _closure_values(function)
    return digest_value(_describe(values, index)) if values else None


def code_digest(function: Callable[..., Any]) -> str:
    """The digest of one function's own code, without comments, layout and docstrings.

    If the source cannot be read, as of a lambda or in an interactive session, it is the digest of the name.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return digest_value(getattr(function, "__qualname__", repr(function)))
    return digest_value([canonical_text(statement) for statement in tree.body])


def _describe(value: Any, index: CodeIndex, *, is_top: bool = False, path: tuple[int, ...] = ()) -> Any:
    """The value as JSON types, the same in every process.

    Args:
        value: the value.
        index: the project's code.
        is_top: whether it is the declaration itself, not one that another declaration names.
        path: the ids of the objects that contain it, so that an object that contains itself is described once.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if id(value) in path:
        return "itself"

    def describe(part: Any) -> Any:
        return _describe(part, index, path=(*path, id(value)))

    if inspect.isfunction(value) or inspect.isclass(value):
        pieces = _pieces_of(value, index)
        values = _closure_values(value) if inspect.isfunction(value) and isinstance(pieces, dict) else {}
        return [pieces, describe(values)] if values else pieces
    if attrs.has(type(value)) or is_dataclass(value):
        parts = attrs.fields(type(value)) if attrs.has(type(value)) else fields(value)
        content = {part.name: getattr(value, part.name) for part in parts if part.name != "place"}
        if not is_top and hasattr(value, "place"):
            return [type(value).__qualname__, content.get("name", content.get("topic"))]
        return [type(value).__qualname__, describe(content)]
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
        return index.pieces(value.__name__, "") if index.has(value.__name__) else value.__name__
    if hasattr(value, "get_params"):  # an estimator of scikit-learn; its repr leaves out what is long
        return [_pieces_of(type(value), index), describe(value.get_params(deep=False))]
    if index.has(type(value).__module__):
        return [_pieces_of(type(value), index), describe(getattr(value, "__dict__", {}))]
    return _describe_foreign(value)


def _pieces_of(definition: Any, index: CodeIndex) -> dict[str, str] | str:
    """The pieces of a function or class of the project; the dotted name of any other."""
    module, name = definition.__module__, definition.__qualname__.split(".")[0]
    if not index.has(module):
        return f"{module}.{definition.__qualname__}"
    if name == "<lambda>":
        return index.lambda_pieces(module, definition.__code__.co_firstlineno)
    return index.pieces(module, name)


def _closure_values(function: Any) -> dict[str, Any]:
    """For a function that another function returned: the variables of that call that it uses, and its defaults.

    For a function at the top of its module they are part of the code.
    """
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    empty = CellType()  # the cell of a variable that has no value yet
    values = {name: cell.cell_contents for name, cell in cells if cell != empty}
    if "<locals>" in function.__qualname__:
        values["defaults"] = [function.__defaults__, function.__kwdefaults__]
    return values


def _describe_foreign(value: Any) -> str:
    """An object of a package outside the project, as text: data by content, others without memory addresses."""
    if type(value).__module__.split(".")[0] in _DATA_PACKAGES:
        try:
            return digest_bytes(pickle.dumps(value))
        except (pickle.PicklingError, TypeError, AttributeError):
            return _ADDRESS.sub("", str(value))  # an expression over a function that cannot be pickled
    return _ADDRESS.sub("", repr(value))
