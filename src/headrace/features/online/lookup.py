"""Computes a model's matrix for requests: lookup, on-demand views, and the policy for missing features."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.features.online.store import LookupResult, OnlineStore, ServedPosition, StoreUnavailable, ViewCost
from headrace.features.plan import FeaturePlan, find_needed
from headrace.features.values.matrix import Encoding, Matrix
from headrace.features.values.on_demand import OnDemand, OnDemandError
from headrace.kernel.errors import CallError

__all__ = ["FeatureRows", "Lookup", "RequestFeatures", "ViewRead"]

_logger = logging.getLogger(__name__)
_GIVEN_SETS = 256  # sets of given features whose needs are kept
_NOT_READ = ViewCost(0.0, 0)


class ViewRead(NamedTuple):
    """What one view gave to n requests, and what that cost.

    Attributes:
        values: the number of its values: n for each of its features.
        missing: how many of them were missing.
        seconds: the time to compute them (online.ViewCost), or of the on-demand function.
        bytes: the size of the states that they come from; 0 for an on-demand view.
    """

    values: int
    missing: int
    seconds: float
    bytes: int


class FeatureRows(NamedTuple):
    """The values of a plan's features for n requests.

    Attributes:
        rows: for each request, the values of `plan.features` in that order, of their dtypes; None is missing.
        positions: for each request, stored view → the position of its values; empty if the store did not
            answer.
        views: view → what it gave and cost.
    """

    rows: list[list[Any]]
    positions: list[dict[str, ServedPosition]]
    views: dict[str, ViewRead]


class RequestFeatures(NamedTuple):
    """The features of n requests.

    Attributes:
        matrix: the model's input, float32 [n, features], in the order of `plan.features`. NaN is missing;
            defaults of the plan are filled in.
        values: for each request, the features to log: float64, not yet rounded for the model, or text; NaN or
            None is missing.
        missing: for each request, the columns (`view__feature`) that were missing, with or without a default.
        positions: for each request, view → the position of its values.
        views: view → what it gave and cost.
    """

    matrix: NDArray[np.float32]
    values: list[list[float | str | None]]
    missing: list[list[str]]
    positions: list[dict[str, ServedPosition]]
    views: dict[str, ViewRead]


class _OnDemandStep(NamedTuple):
    """An on-demand view, the source of each input (an index in the row, or a field of the request), and the
    columns of its features."""

    on_demand: OnDemand
    inputs: list[int | str]
    columns: list[str]

    def extend(
        self, requests: Sequence[Mapping[str, Any]], rows: list[list[Any]], costs: dict[str, ViewCost]
    ) -> None:
        """Appends the view's features to the rows, and adds what that cost."""
        started = perf_counter()
        self._extend(requests, rows)
        costs[self.on_demand.view.name] = ViewCost(perf_counter() - started, 0)

    def _extend(self, requests: Sequence[Mapping[str, Any]], rows: list[list[Any]]) -> None:
        if len(rows) == 1:
            (request,), (row,) = requests, rows
            values = [request[index] if isinstance(index, str) else row[index] for index in self.inputs]
            row.extend(self.on_demand.compute_row(values))
            return
        columns = [
            [request[index] for request in requests] if isinstance(index, str) else [row[index] for row in rows]
            for index in self.inputs
        ]
        features = zip(*self.on_demand.compute_columns(columns, len(rows)), strict=True)
        for row, row_features in zip(rows, features, strict=True):
            row.extend(row_features)


class Lookup:
    """Looks up the features of one plan in one store. Threads may share it.

    Args:
        plan: the features. It must be trusted, because its on-demand functions are executed.
        store: the store that holds the stored views.
        encoding: the numbers for the model's text values.

    Raises:
        ProjectError: a feature is neither a number nor text.
    """

    def __init__(self, plan: FeaturePlan, store: OnlineStore, encoding: Encoding | None = None) -> None:
        self.plan = plan
        self._matrix = Matrix(plan, encoding)
        self.columns = self._matrix.columns
        self._store = store
        self._is_reached = True
        indexes = {feature.column: index for index, feature in enumerate(plan.looked_up)}
        self._steps = []
        for view in plan.on_demand:
            columns = [f"{view.name}__{field.name}" for field in view.features]
            inputs = [
                source.name if source.view is None else indexes[f"{source.view}__{source.name}"]
                for source in view.inputs
            ]
            self._steps.append(_OnDemandStep(OnDemand(view, plan.input_dtypes), inputs, columns))
            for column in columns:
                indexes[column] = len(indexes)
        self._indexes = [indexes[column] for column in self.columns]
        self._text = {f.column: indexes[f.column] for f in plan.features if f.dtype == "string"}
        self._features = indexes
        self._view_of = {feature.column: feature.view for feature in plan.features}
        # The features that only on-demand functions read: they are not among those that the model misses.
        self._inputs = [(f.view, indexes[f.column]) for f in plan.looked_up if f.column not in self._view_of]
        self._widths = Counter([*self._view_of.values(), *(view for view, _ in self._inputs)])
        self._find_needed = lru_cache(_GIVEN_SETS)(lambda given: find_needed(plan, given))
        self._parts = [(view.name, msgspec.structs.replace(plan, views=(view,))) for view in plan.stored]

    def features(self, requests: Sequence[Mapping[str, Any]], at: int) -> RequestFeatures:
        """The features of each request at `at` (microseconds, about now).

        Args:
            requests: the plan's entity keys and request fields, of their dtypes. A request may also have
                features (`view__feature`): they replace what would be looked up or computed.
            at: the moment.

        Raises:
            CallError: a request lacks a field.
            OnDemandError: an on-demand function failed; `row` is the index of the request.
            StoreUnavailable: the store does not answer, and the plan's policy for that is `refuse`.
            Unavailable: a view was not filled yet, or an entity is broken.
        """
        rows, positions, costs = self._compute(requests, at)
        seen = self._matrix.of_rows([[row[index] for index in self._indexes] for row in rows])
        text = {name: [row[index] for row in rows] for name, index in self._text.items()}
        values, missing = self._matrix.values(seen, text), self._matrix.missing(seen)
        counts = Counter(self._view_of[column] for columns in missing for column in columns)
        return RequestFeatures(seen.matrix, values, missing, positions, self._count_views(rows, counts, costs))

    def rows(self, requests: Sequence[Mapping[str, Any]], at: int) -> FeatureRows:
        """The values of the plan's features for each request at `at`, as they are before the model's policy for
        missing ones. NaN and infinity are missing. Takes and raises the same as `features`."""
        rows, positions, costs = self._compute(requests, at)
        values = [[_or_missing(row[index]) for index in self._indexes] for row in rows]
        counts: Counter[str] = Counter()
        for view, column in zip(self._view_of.values(), zip(*values, strict=True), strict=True):
            counts[view] += column.count(None)
        return FeatureRows(values, positions, self._count_views(rows, counts, costs))

    def _compute(self, requests: Sequence[Mapping[str, Any]], at: int) -> LookupResult:
        """The values of all features of the plan's views; see `features`."""
        try:
            if any(not self._features.keys().isdisjoint(request) for request in requests):
                return self._complete(requests, at)
            result = self._read_store(self.plan, requests, at)
            for step in self._steps:
                step.extend(requests, result.rows, result.costs)
            return result
        except KeyError as error:
            raise CallError(
                f"the request lacks {error.args[0]!r}",
                remedy=f"It must have {', '.join(self._request_names())}.",
            ) from error

    def _count_views(
        self, rows: Sequence[Sequence[Any]], missing: Counter[str], costs: Mapping[str, ViewCost]
    ) -> dict[str, ViewRead]:
        """What each view gave and cost.

        Args:
            rows: the values of all features.
            missing: view → how many values of the plan's features are missing. The inputs of on-demand
                functions are added.
            costs: view → what it cost, of every view that was read. If a request gives all features of a view,
                it is not read.
        """
        for view, index in self._inputs:
            missing[view] += sum(_or_missing(row[index]) is None for row in rows)
        reads: dict[str, ViewRead] = {}
        for view, width in self._widths.items():
            cost = costs.get(view, _NOT_READ)
            reads[view] = ViewRead(len(rows) * width, missing[view], cost.seconds, cost.bytes)
        return reads

    def _complete(self, requests: Sequence[Mapping[str, Any]], at: int) -> LookupResult:
        """The values of all features, and the positions, of requests that give a part of the features.

        Requests that give the same features are looked up together. A view with a given feature has no
        position, because its values cannot be traced.
        """
        groups: dict[frozenset[str], list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(frozenset(request.keys() & self._features.keys()), []).append(index)
        rows: dict[int, list[Any]] = {}
        positions: dict[int, dict[str, ServedPosition]] = {}
        costs: dict[str, ViewCost] = {}
        for given, indexes in groups.items():
            group = [requests[index] for index in indexes]
            group_rows, group_positions, group_costs = self._complete_group(group, given, indexes, at)
            rows.update(zip(indexes, group_rows, strict=True))
            positions.update(zip(indexes, group_positions, strict=True))
            _add_costs(costs, group_costs)
        places = range(len(requests))
        return LookupResult([rows[index] for index in places], [positions[index] for index in places], costs)

    def _complete_group(
        self, requests: Sequence[Mapping[str, Any]], given: frozenset[str], indexes: Sequence[int], at: int
    ) -> LookupResult:
        needed = self._find_needed(given)
        rows: list[list[Any]] = [[] for _ in requests]
        positions: list[dict[str, ServedPosition]] = [{} for _ in requests]
        costs: dict[str, ViewCost] = {}
        for name, part in self._parts:  # one view at a time: the store keeps a query for each plan
            if name in needed.views:
                values, read, view_costs = self._read_store(part, requests, at)
                costs.update(view_costs)
                if given.isdisjoint(feature.column for feature in part.looked_up):
                    for position, view_position in zip(positions, read, strict=True):
                        position.update(view_position)
            else:
                values = [[None] * len(part.looked_up) for _ in requests]
            for row, view_values in zip(rows, values, strict=True):
                row.extend(view_values)
        self._put_given(requests, rows, given)
        for step in self._steps:
            if step.on_demand.view.name in needed.views:
                try:
                    step.extend(requests, rows, costs)
                except OnDemandError as error:
                    row_index = 0 if len(requests) == 1 else error.row
                    error.row = None if row_index is None else indexes[row_index]
                    raise
            else:
                for row in rows:
                    row.extend([None] * len(step.columns))
            self._put_given(requests, rows, given)
        return LookupResult(rows, positions, costs)

    def _put_given(
        self, requests: Sequence[Mapping[str, Any]], rows: Sequence[list[Any]], given: frozenset[str]
    ) -> None:
        """Puts the given features that have a place in the rows there."""
        places = [(self._features[column], column) for column in given if self._features[column] < len(rows[0])]
        for request, row in zip(requests, rows, strict=True):
            for index, column in places:
                row[index] = request[column]

    def _read_store(self, plan: FeaturePlan, requests: Sequence[Mapping[str, Any]], at: int) -> LookupResult:
        try:
            result = self._store.lookup(plan, requests, at)
        except StoreUnavailable as error:
            if self.plan.unavailable == "refuse":
                raise
            if self._is_reached:
                _logger.warning("model %s predicts without the online store: %s", self.plan.model, error)
            self._is_reached = False
            width = len(plan.looked_up)
            return LookupResult([[None] * width for _ in requests], [{} for _ in requests], {})
        if not self._is_reached:
            _logger.warning("model %s predicts with the online store again", self.plan.model)
            self._is_reached = True
        return result

    def _request_names(self) -> list[str]:
        return [entity.join_key for entity in self.plan.entities] + [f.name for f in self.plan.request]


def _or_missing(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _add_costs(costs: dict[str, ViewCost], more: Mapping[str, ViewCost]) -> None:
    for view, cost in more.items():
        before = costs.get(view, _NOT_READ)
        costs[view] = ViewCost(before.seconds + cost.seconds, before.bytes + cost.bytes)
