"""From requests to a model's matrix: lookup, on-demand views, what a missing feature means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.features.on_demand import OnDemand
from headrace.features.online import OnlineStore, ServedPosition
from headrace.features.plan import Plan
from headrace.kernel.errors import CallError, ProjectError

__all__ = ["Answers", "Lookup"]


class Answers(NamedTuple):
    """The features of n requests.

    Attributes:
        matrix: float64 [n, features], in the order of `plan.features`; NaN is missing. Where the
            plan has defaults, they are in it.
        missing: for each request, the columns (`view__feature`) that were missing, defaults or not.
        positions: for each request, view → the position its values stand for.
    """

    matrix: NDArray[np.float64]
    missing: list[list[str]]
    positions: list[dict[str, ServedPosition]]


class _Computed(NamedTuple):
    """An on-demand view, and where its inputs are: (name, place in the row), (name, request's field)."""

    on_demand: OnDemand
    looked_up: list[tuple[str, int]]
    asked: list[tuple[str, str]]

    def extend(self, requests: Sequence[Mapping[str, Any]], rows: list[list[object]]) -> None:
        """Puts the view's features at the end of the rows."""
        if len(rows) == 1 or self.on_demand.view.mode == "row":
            for request, row in zip(requests, rows, strict=True):
                inputs = {name: row[place] for name, place in self.looked_up}
                inputs.update((name, request[field]) for name, field in self.asked)
                row.extend(self.on_demand.row(inputs))
            return
        columns = {name: [row[place] for row in rows] for name, place in self.looked_up}
        columns.update((name, [request[field] for request in requests]) for name, field in self.asked)
        for values, row in zip(
            zip(*self.on_demand.columns(columns, len(rows)), strict=True), rows, strict=True
        ):
            row.extend(values)


class Lookup:
    """One plan on one store. Threads may share it."""

    def __init__(self, plan: Plan, store: OnlineStore) -> None:
        """Defines the plan's on-demand functions: the plan must be trusted.

        Raises:
            ProjectError: a feature is no number, so no matrix can hold it.
        """
        for one in plan.features:
            if one.dtype not in ("int64", "float64", "bool"):
                raise ProjectError(
                    f"feature {one.column} is {one.dtype}, and a model's matrix holds numbers",
                    where=f"model {plan.model}",
                    remedy="Turn it into numbers in an on-demand view, and name that in the feature service.",
                )
        self.plan = plan
        self.columns = tuple(one.column for one in plan.features)
        self._store = store
        found = {one.column: place for place, one in enumerate(plan.looked_up)}
        self._computed = [_placed(OnDemand(view), found) for view in plan.on_demand]
        self._places = [found[column] for column in self.columns]
        defaults = plan.missing if isinstance(plan.missing, dict) else {}
        self._defaults = [float(defaults.get(column, np.nan)) for column in self.columns]

    def features(self, requests: Sequence[Mapping[str, Any]], at: int) -> Answers:
        """The features of each request at `at` (microseconds, about now).

        Args:
            requests: the plan's entity keys and request fields, of their dtypes.
            at: the moment.

        Raises:
            CallError: a request lacks a field.
            HeadraceError: an on-demand function failed.
            Unavailable: a view was not filled yet.
        """
        try:
            rows, positions = self._store.lookup(self.plan, requests, at)
            for computed in self._computed:
                computed.extend(requests, rows)
        except KeyError as error:
            raise CallError(
                f"the request lacks {error.args[0]!r}",
                remedy=f"It carries {', '.join(self._wanted())}.",
            ) from error
        matrix = np.empty((len(rows), len(self.columns)), dtype=np.float64)
        missing: list[list[str]] = []
        for at_row, row in enumerate(rows):
            values = [row[place] for place in self._places]
            if None in values:
                missing.append(
                    [name for name, value in zip(self.columns, values, strict=True) if value is None]
                )
                values = [
                    default if value is None else value
                    for value, default in zip(values, self._defaults, strict=True)
                ]
            else:
                missing.append([])
            matrix[at_row] = values
        return Answers(matrix, missing, positions)

    def _wanted(self) -> list[str]:
        return [one.join_key for one in self.plan.entities] + [one.name for one in self.plan.request]


def _placed(on_demand: OnDemand, found: dict[str, int]) -> _Computed:
    """Where the view's inputs are; its own features get the next places of a row."""
    inputs = on_demand.inputs
    looked_up = [(name, found[f"{one.view}__{one.name}"]) for name, one in inputs if one.view is not None]
    for name in on_demand.names:
        found[f"{on_demand.view.name}__{name}"] = len(found)
    return _Computed(on_demand, looked_up, [(name, one.name) for name, one in inputs if one.view is None])
