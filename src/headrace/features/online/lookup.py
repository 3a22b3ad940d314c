"""Computes a model's matrix for requests: lookup, on-demand views, and the policy for missing features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.features.online.store import LookupResult, OnlineStore, ServedPosition, StoreUnavailable
from headrace.features.plan import FeaturePlan, find_needed
from headrace.features.values.matrix import Encoding, Matrix
from headrace.features.values.on_demand import OnDemand, OnDemandError
from headrace.kernel.errors import CallError

__all__ = ["Lookup", "RequestFeatures"]

_logger = logging.getLogger(__name__)
_GIVEN_SETS = 256  # sets of given features whose needs are kept


class RequestFeatures(NamedTuple):
    """The features of n requests.

    Attributes:
        matrix: the model's input, float32 [n, features], in the order of `plan.features`. NaN is missing;
            defaults of the plan are filled in.
        values: for each request, the features to log: float64, not yet rounded for the model, or text; NaN or
            None is missing.
        missing: for each request, the columns (`view__feature`) that were missing, with or without a default.
        positions: for each request, view → the position of its values.
    """

    matrix: NDArray[np.float32]
    values: list[list[float | str | None]]
    missing: list[list[str]]
    positions: list[dict[str, ServedPosition]]


class _OnDemandStep(NamedTuple):
    """An on-demand view, the source of each input (an index in the row, or a field of the request), and the
    columns of its features."""

    on_demand: OnDemand
    inputs: list[int | str]
    columns: list[str]

    def extend(self, requests: Sequence[Mapping[str, Any]], rows: list[list[Any]]) -> None:
        """Appends the view's features to the rows."""
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
        try:
            if any(not self._features.keys().isdisjoint(request) for request in requests):
                rows, positions = self._complete(requests, at)
            else:
                rows, positions = self._read_store(self.plan, requests, at)
                for step in self._steps:
                    step.extend(requests, rows)
        except KeyError as error:
            raise CallError(
                f"the request lacks {error.args[0]!r}",
                remedy=f"It must have {', '.join(self._request_names())}.",
            ) from error
        seen = self._matrix.of_rows([[row[index] for index in self._indexes] for row in rows])
        text = {name: [row[index] for row in rows] for name, index in self._text.items()}
        values, missing = self._matrix.values(seen, text), self._matrix.missing(seen)
        return RequestFeatures(seen.matrix, values, missing, positions)

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
        for given, indexes in groups.items():
            group = [requests[index] for index in indexes]
            group_rows, group_positions = self._complete_group(group, given, indexes, at)
            rows.update(zip(indexes, group_rows, strict=True))
            positions.update(zip(indexes, group_positions, strict=True))
        places = range(len(requests))
        return LookupResult([rows[index] for index in places], [positions[index] for index in places])

    def _complete_group(
        self, requests: Sequence[Mapping[str, Any]], given: frozenset[str], indexes: Sequence[int], at: int
    ) -> LookupResult:
        needed = self._find_needed(given)
        rows: list[list[Any]] = [[] for _ in requests]
        positions: list[dict[str, ServedPosition]] = [{} for _ in requests]
        for name, part in self._parts:  # one view at a time: the store keeps a query for each plan
            if name in needed.views:
                values, read = self._read_store(part, requests, at)
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
                    step.extend(requests, rows)
                except OnDemandError as error:
                    row_index = 0 if len(requests) == 1 else error.row
                    error.row = None if row_index is None else indexes[row_index]
                    raise
            else:
                for row in rows:
                    row.extend([None] * len(step.columns))
            self._put_given(requests, rows, given)
        return LookupResult(rows, positions)

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
            return LookupResult([[None] * width for _ in requests], [{} for _ in requests])
        if not self._is_reached:
            _logger.warning("model %s predicts with the online store again", self.plan.model)
            self._is_reached = True
        return result

    def _request_names(self) -> list[str]:
        return [entity.join_key for entity in self.plan.entities] + [f.name for f in self.plan.request]
