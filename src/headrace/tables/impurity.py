"""Finds what makes a table's function give other rows for the same input: the clock, random numbers, the
environment, files.

The function is called once more while the interpreter reports each call that it makes, with the line, also in
functions that Polars calls from its own threads (`map_elements`).
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import CodeType, FrameType, FunctionType
from typing import Any

import polars as pl
from polars.dataframe.group_by import GroupBy
from polars.lazyframe.group_by import LazyGroupBy

from headrace.declare.table import Table

__all__ = ["find_clock_texts", "watch_calls"]

_CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime", "monotonic", "perf_counter"}
_CLOCK_MODULES = {"datetime", "time"}
_RANDOM_MODULES = {"random", "secrets", "numpy.random"}
_RANDOM_IDS = {"uuid1", "uuid4"}  # uuid3 and uuid5 are hashes of a name
_RANDOM_POLARS = {"shuffle", "sample"}
_READING_POLARS = ("read_", "scan_")
_CLOCK_TEXTS = {"now", "today"}  # what numpy.datetime64 takes for a time
_CALLING_BACK: dict[Any, tuple[str, ...]] = {
    pl: ("map_batches", "map_groups", "fold", "reduce", "cum_fold", "cum_reduce"),
    pl.Expr: ("map_batches", "map_elements", "rolling_map"),
    pl.Series: ("map_elements", "rolling_map"),
    pl.DataFrame: ("map_rows",),
    pl.LazyFrame: ("map_batches",),
    GroupBy: ("map_groups",),
    LazyGroupBy: ("map_groups",),
}
"""Polars' functions that call functions of the project."""
_ENVIRONMENT_MODULES = {"os", "collections.abc"}
_ENVIRONMENT = {"getenv", "__getitem__"}


def find_clock_texts(table: Table) -> list[str]:
    """Where its function gives `numpy.datetime64` a text that means the clock, a sentence."""
    function = table.function
    codes = [function.__code__] if isinstance(function, FunctionType) else []
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    is_read = any("datetime64" in code.co_names and _CLOCK_TEXTS.intersection(code.co_consts) for code in codes)
    return [f"reads the clock: numpy.datetime64() at {table.place}"] if is_read else []


def watch_calls(table: Table, call: Callable[[], Any]) -> list[str]:
    """Calls the table's function and returns what it reads beside its input, a sentence each.

    Args:
        table: the table.
        call: calls its function.
    """
    findings: dict[str, None] = {}
    package = table.function.__module__.partition(".")[0]

    def report(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            what = _describe_builtin(argument, table)
            caller: FrameType | None = frame
        elif event == "call":
            what = _describe_function(frame, table)
            caller = frame.f_back
        else:
            return
        if what is None:
            return
        while caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] != package:
            caller = caller.f_back
        if caller is not None:
            findings[f"{what} at {caller.f_code.co_filename}:{caller.f_lineno}"] = None

    with _report_calls_by_polars(report):
        _run_reported(report, call)
    return list(findings)


def _run_reported(report: Callable[..., None], function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    previous, collects_garbage = sys.getprofile(), gc.isenabled()
    gc.disable()  # it calls finalizers of objects that have nothing to do with the function, wherever that is
    sys.setprofile(report)
    try:
        return function(*args, **options)
    finally:
        sys.setprofile(previous)
        if collects_garbage:
            gc.enable()


@contextmanager
def _report_calls_by_polars(report: Callable[..., None]) -> Iterator[None]:
    """While the block runs, functions that are passed to Polars are reported in whatever thread they run."""

    def watched(argument: Any) -> Any:
        if not isinstance(argument, FunctionType):
            return argument

        @wraps(argument)
        def call(*args: Any, **options: Any) -> Any:
            return _run_reported(report, argument, *args, **options)

        return call

    def passing_on(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            return method(*map(watched, args), **{name: watched(value) for name, value in options.items()})

        return call

    originals = [(owner, name, vars(owner)[name]) for owner, names in _CALLING_BACK.items() for name in names]
    for owner, name, method in originals:
        setattr(owner, name, passing_on(method))
    try:
        yield
    finally:
        for owner, name, method in originals:
            setattr(owner, name, method)


def _describe_builtin(function: Any, table: Table) -> str | None:
    """What a function in C reads; None: nothing that changes."""
    if function is open and not table.reads_files:
        return "reads a file that reads_files= does not declare: open()"
    name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    owner_names = {getattr(owner, "__module__", None), getattr(owner, "__name__", None)}
    if name in _CLOCKS and owner_names & _CLOCK_MODULES:
        return f"reads the clock: {name}()"
    kind = type(owner).__module__
    is_random = kind.startswith("numpy.random") or _is_unseeded(owner)
    if name == "urandom" or is_random:
        return f"draws random numbers: {name}()"
    return None


def _describe_function(frame: FrameType, table: Table) -> str | None:
    """What a function in Python reads; None: nothing that changes."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if module == "os" and name in _ENVIRONMENT:
        key = frame.f_locals.get("key")
        if isinstance(key, str) and key not in table.env and not _is_read_by_polars(frame):
            return f"reads the environment variable {key}"
    if module.startswith("polars.io.") and name.startswith(_READING_POLARS) and not table.reads_files:
        return f"reads a file that reads_files= does not declare: {name}()"
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
