"""Computes a model's matrix for requests: lookup, on-demand views, and the policy for missing features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.features.online.store import LookupResult, OnlineStore, ServedPosition, StoreUnavailable
from headrace.features.plan import FeaturePlan
from headrace.features.values.matrix import Encoding, Matrix
from headrace.features.values.on_demand import OnDemand
from headrace.kernel.errors import CallError

__all__ = ["Lookup", "RequestFeatures"]

_logger = logging.getLogger(__name__)


class RequestFeatures(NamedTuple):
    """The features of n requests.

    Attributes:
        matrix: the model's input, float32 [n, features], in the order of `plan.features`. NaN is missing;
            defaults
            of the plan are filled in.
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
    """An on-demand view, and the source of each input: an index in the row, or a field of the request."""

    on_demand: OnDemand
    inputs: list[int | str]

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
            inputs = [
                source.name if source.view is None else indexes[f"{source.view}__{source.name}"]
                for source in view.inputs
            ]
            self._steps.append(_OnDemandStep(OnDemand(view, plan.input_dtypes), inputs))
            for field in view.features:
                indexes[f"{view.name}__{field.name}"] = len(indexes)
        self._indexes = [indexes[column] for column in self.columns]
        self._text = {f.column: indexes[f.column] for f in plan.features if f.dtype == "string"}

    def features(self, requests: Sequence[Mapping[str, Any]], at: int) -> RequestFeatures:
        """The features of each request at `at` (microseconds, about now).

        Args:
            requests: the plan's entity keys and request fields, of their dtypes.
            at: the moment.

        Raises:
            CallError: a request lacks a field.
            OnDemandError: an on-demand function failed; `row` is the index of the request.
            StoreUnavailable: the store does not answer, and the plan's policy for that is `refuse`.
            Unavailable: a view was not filled yet, or an entity is broken.
        """
        try:
            rows, positions = self._read_store(requests, at)
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

    def _read_store(self, requests: Sequence[Mapping[str, Any]], at: int) -> LookupResult:
        try:
            result = self._store.lookup(self.plan, requests, at)
        except StoreUnavailable as error:
            if self.plan.unavailable == "refuse":
                raise
            if self._is_reached:
                _logger.warning("model %s predicts without the online store: %s", self.plan.model, error)
            self._is_reached = False
            width = len(self.plan.looked_up)
            return LookupResult([[None] * width for _ in requests], [{} for _ in requests])
        if not self._is_reached:
            _logger.warning("model %s predicts with the online store again", self.plan.model)
            self._is_reached = True
        return result

    def _request_names(self) -> list[str]:
        return [entity.join_key for entity in self.plan.entities] + [f.name for f in self.plan.request]
