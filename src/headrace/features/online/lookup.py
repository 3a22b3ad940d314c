"""From requests to a model's matrix: lookup, on-demand views, what a missing feature means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.features.online import OnlineStore, ServedPosition
from headrace.features.plan import FeaturePlan
from headrace.features.values.matrix import Encoding, Matrix
from headrace.features.values.on_demand import OnDemand
from headrace.kernel.errors import CallError

__all__ = ["Answers", "Lookup"]


class Answers(NamedTuple):
    """The features of n requests.

    Attributes:
        matrix: float32 [n, features], in the order of `plan.features`: what the model sees. NaN is missing;
            where the plan has defaults, they are in it.
        values: for each request, the features as they are logged: float64 before the model rounds them, or
            text; NaN or None is missing.
        missing: for each request, the columns (`view__feature`) that were missing, defaults or not.
        positions: for each request, view → the position its values stand for.
    """

    matrix: NDArray[np.float32]
    values: list[list[float | str | None]]
    missing: list[list[str]]
    positions: list[dict[str, ServedPosition]]


class _Computed(NamedTuple):
    """An on-demand view, and where each of its inputs is: a place in the row, or a field of the request."""

    on_demand: OnDemand
    inputs: list[int | str]

    def extend(self, requests: Sequence[Mapping[str, Any]], rows: list[list[Any]]) -> None:
        """Puts the view's features at the end of the rows."""
        if len(rows) == 1:
            (request,), (row,) = requests, rows
            values = [request[one] if isinstance(one, str) else row[one] for one in self.inputs]
            row.extend(self.on_demand.row(values))
            return
        columns = [
            [request[one] for request in requests] if isinstance(one, str) else [row[one] for row in rows]
            for one in self.inputs
        ]
        for features, row in zip(
            zip(*self.on_demand.columns(columns, len(rows)), strict=True), rows, strict=True
        ):
            row.extend(features)


class Lookup:
    """One plan on one store. Threads may share it.

    Args:
        plan: the features. Its on-demand functions are defined here: it must be trusted.
        store: where the stored views are kept.
        encoding: how the model's text becomes numbers.

    Raises:
        ProjectError: a feature is neither a number nor text.
    """

    def __init__(self, plan: FeaturePlan, store: OnlineStore, encoding: Encoding | None = None) -> None:
        self.plan = plan
        self._matrix = Matrix(plan, encoding)
        self.columns = self._matrix.columns
        self._store = store
        found = {one.column: place for place, one in enumerate(plan.looked_up)}
        self._computed = []
        for view in plan.on_demand:
            inputs = [one.name if one.view is None else found[f"{one.view}__{one.name}"] for one in view.inputs]
            self._computed.append(_Computed(OnDemand(view, plan.input_dtypes), inputs))
            for field in view.features:
                found[f"{view.name}__{field.name}"] = len(found)
        self._places = [found[column] for column in self.columns]
        self._text = {one.column: found[one.column] for one in plan.features if one.dtype == "string"}

    def features(self, requests: Sequence[Mapping[str, Any]], at: int) -> Answers:
        """The features of each request at `at` (microseconds, about now).

        Args:
            requests: the plan's entity keys and request fields, of their dtypes.
            at: the moment.

        Raises:
            CallError: a request lacks a field.
            OnDemandError: an on-demand function failed; `row` says on which request.
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
        seen = self._matrix.of_rows([[row[place] for place in self._places] for row in rows])
        text = {name: [row[place] for row in rows] for name, place in self._text.items()}
        return Answers(seen.matrix, self._matrix.values(seen, text), self._matrix.missing(seen), positions)

    def _wanted(self) -> list[str]:
        return [one.join_key for one in self.plan.entities] + [one.name for one in self.plan.request]
