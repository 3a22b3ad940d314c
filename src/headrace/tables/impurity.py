"""Finds what makes a table's function give other rows for the same input: the clock, random numbers, the
environment.

The function is called once more while the interpreter reports each call that it makes, with the line. Code that
Polars calls from its own threads is not seen so; there, only rows that differ between two calls tell.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

from headrace.declare.table import Table

__all__ = ["watch_calls"]

_CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime", "monotonic", "perf_counter"}
_CLOCK_MODULES = {"datetime", "time"}
_RANDOM_MODULES = {"random", "secrets", "numpy.random"}
_RANDOM_IDS = {"uuid1", "uuid4"}  # uuid3 and uuid5 are hashes of a name
_RANDOM_POLARS = {"shuffle", "sample"}
_ENVIRONMENT_MODULES = {"os", "collections.abc"}
_ENVIRONMENT = {"getenv", "__getitem__"}


def watch_calls(table: Table, call: Callable[[], Any], environment: Collection[str]) -> list[str]:
    """Calls the table's function and returns what it reads beside its input, a sentence each.

    Args:
        table: the table.
        call: calls its function.
        environment: the environment variables that the table declares to read.
    """
    findings: dict[str, None] = {}
    package = table.function.__module__.partition(".")[0]

    def report(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            what = _describe_builtin(argument)
            caller: FrameType | None = frame
        elif event == "call":
            what = _describe_function(frame, environment)
            caller = frame.f_back
        else:
            return
        if what is None:
            return
        while caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] != package:
            caller = caller.f_back
        if caller is not None:
            findings[f"{what} at {caller.f_code.co_filename}:{caller.f_lineno}"] = None

    previous = sys.getprofile()
    sys.setprofile(report)
    try:
        call()
    finally:
        sys.setprofile(previous)
    return list(findings)


def _describe_builtin(function: Any) -> str | None:
    """What a function in C reads; None: nothing that changes."""
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    owner_names = {getattr(owner, "__module__", None), getattr(owner, "__name__", None)}
    if name in _CLOCKS and owner_names & _CLOCK_MODULES:
        return f"reads the clock: {name}()"
    kind = type(owner).__module__
    is_random = kind.startswith("numpy.random") or _is_unseeded(owner)
    if name == "urandom" or is_random:
        return f"draws random numbers: {name}()"
    return None


def _describe_function(frame: FrameType, environment: Collection[str]) -> str | None:
    """What a function in Python reads; None: nothing that changes."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if module == "os" and name in _ENVIRONMENT:
        key = frame.f_locals.get("key")
        if isinstance(key, str) and key not in environment and not _is_read_by_polars(frame):
            return f"reads the environment variable {key}"
    is_random_id = module == "uuid" and name in _RANDOM_IDS
    is_seeded = isinstance(frame.f_locals.get("self"), random.Random) and not _is_unseeded(
        frame.f_locals["self"]
    )
    if is_random_id or (module in _RANDOM_MODULES and not name.startswith("_") and not is_seeded):
        return f"draws random numbers: {module}.{name}()"
    if module.startswith("polars.") and name in _RANDOM_POLARS and frame.f_locals.get("seed") is None:
        return f"draws random numbers: {name}() without seed="
    return None


def _is_unseeded(owner: object) -> bool:
    """Whether it is the generator behind the functions of module random, or draws from the system. Whether
    another one has a seed is seen by its numbers, which differ if it has none."""
    return owner is getattr(random, "_inst", None) or isinstance(owner, random.SystemRandom)


def _is_read_by_polars(frame: FrameType) -> bool:
    """Whether Polars itself asks for an environment variable, such as its own settings in `collect`."""
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") in _ENVIRONMENT_MODULES:
        caller = caller.f_back
    return caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] == "polars"
