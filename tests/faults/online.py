"""The suite's online state: two views over a rowwise function, which fails on some events and is edited."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from contextlib import closing
from fractions import Fraction
from typing import Any

import polars as pl
from msgspec.structs import replace

from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.features import online
from headrace.features.offline.rowwise import codes_of
from headrace.features.online.backfill import fill
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
)
from headrace.kernel.files import write_file
from headrace.kernel.time import now_micros
from headrace.lake import Lake
from headrace.projects.project import Project, load_project

__all__ = ["FAILS_ON", "compare_online_state", "fill_online", "load_suite_project", "write_code"]

FAILS_ON = "the function fails"
SIGNS = {False: 1, True: -1}  # whether the code is edited → the sign of the prices that its function returns
CODE = """
import polars as pl
from tests.faults.setup import Click
from headrace import table

def price_of(row):
    if "{fails_on}" in row["note"]:
        raise RuntimeError("no price")
    return {sign} * row["price"]

@table(reads=Click, rowwise=True)
def prices(clicks: pl.LazyFrame) -> pl.LazyFrame:
    price = pl.struct("note", "price").map_elements(price_of, return_dtype=pl.Float64)
    return clicks.select("at", "user", "page", "_known_at", price=price)
"""
NOTHING: list[float | None] = [0, None, None]
_DAY = 86_400_000_000
_LONG = 36_500 * _DAY  # so long that the suite's fixed times are in the window on any day
_CHUNK = 2_000  # entities in one lookup


def write_code(settings: Settings, *, edited: bool) -> None:
    """Writes the project's code, with the function as it is before or after the edit."""
    package = settings.root / settings.project
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    write_file(package / "tables.py", CODE.format(sign=SIGNS[edited], fails_on=FAILS_ON))


def load_suite_project(settings: Settings, contract: Contract) -> Project:
    """The project as its files are now, with the contract by which the suite judges."""
    return replace(load_project(settings), contracts={contract.topic: contract})


def view_of(name: str, key: str, code: str) -> WindowedView:
    functions = {"count": "int64", "sum": "float64", "max": "float64"}
    aggregations = tuple(
        Aggregation(function, "price", AggregateFunction(function), _LONG, _DAY, dtype)  # type: ignore[arg-type]
        for function, dtype in functions.items()
    )
    columns = (PlanField("price", "float64"),)
    return WindowedView(name, (key,), "clicks", "prices", "prices", "at", columns, aggregations, code)


def plan_of(project: Project) -> FeaturePlan:
    """The features that are served with the project's present code."""
    code = codes_of(project)["prices"]
    views = (view_of("by_page", "page", code), view_of("by_user", "user", code))
    entities = (EntityKey("page", "page", "string"), EntityKey("user", "user", "int64"))
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("suite", entities, views, features, (), "model")


def fill_online(settings: Settings, project: Project, lake: Lake) -> None:
    """Fills the views of the present code, then drops those of other code, as a build does."""
    plan = plan_of(project)
    with closing(online.open(settings)) as store:
        fill(project, lake, plan, store)
        for view in store.views():
            if view.digest not in {current.digest for current in plan.stored}:
                store.drop(view.digest)


def compare_online_state(
    settings: Settings, contract: Contract, good: pl.DataFrame, edited: bool
) -> dict[str, int]:
    """Compares the online state with the definition of its features, in plain Python.

    Args:
        settings: the settings of the project.
        contract: the contract by which the suite judges.
        good: the good rows of the topic's table.
        edited: whether the function is edited.
    """
    prices: dict[str, dict[Any, list[float]]] = {"page": defaultdict(list), "user": defaultdict(list)}
    for user, page, price, note in good.select("user", "page", "price", "note").iter_rows():
        for key, value in (("page", page), ("user", user)):
            values = prices[key][value]
            if FAILS_ON not in note:
                values.append(SIGNS[edited] * price)
    features = {
        (key, value): features_of(values) for key, of_key in prices.items() for value, values in of_key.items()
    }
    plan = plan_of(load_suite_project(settings, contract))
    counts = Counter[str]()
    with closing(online.open(settings)) as store:
        requests = [{"page": "home", "user": user} for user in prices["user"]]
        requests += [{"page": page, "user": -1} for page in prices["page"]]
        for first in range(0, len(requests), _CHUNK):
            chunk = requests[first : first + _CHUNK]
            for request, row in zip(chunk, store.lookup(plan, chunk, now_micros()).rows, strict=True):
                of_page, of_user = (features.get((key, request[key]), NOTHING) for key in ("page", "user"))
                counts["online wrong"] += list(row) != [*of_page, *of_user]
        counts["online broken"] = sum(store.count_broken(view) for view in plan.windowed)
    return counts


def features_of(prices: list[float]) -> list[float | None]:
    """The count, the sum (the true value, rounded once) and the greatest of the prices."""
    if not prices:
        return NOTHING
    total = sum(map(Fraction, prices), Fraction())
    try:
        rounded = float(total)
    except OverflowError:
        rounded = math.inf if total > 0 else -math.inf
    return [len(prices), rounded, max(prices)]
