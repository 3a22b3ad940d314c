"""On-demand views: computes their features, at the moment of a request and for a training set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from headrace.features.plan import Dtype, OnDemandInput, OnDemandView
from headrace.features.values.conversion import converter, input_cleaner
from headrace.kernel.errors import HeadraceError

__all__ = ["OnDemand", "OnDemandError", "ReturnError"]

# A frame has the plan's dtypes, because those that pandas infers depend on the other rows of the frame. The
# dtypes of integers and booleans can hold missing values.
_PANDAS: dict[str, str] = {
    "int64": "Int64",
    "float64": "float64",
    "bool": "boolean",
    "timestamp": "datetime64[us, UTC]",
}


class OnDemandError(HeadraceError):
    """An on-demand function failed, or did not return its features.

    Attributes:
        row: the index of the row that it failed on; None if no single row makes it fail.
    """

    row: int | None = None


class ReturnError(OnDemandError):
    """An on-demand function did not return its features."""


class OnDemand:
    """One on-demand view, ready to be called.

    The function gets each input under its name, and a feature also as `view__name`. A missing input (null,
    NaN or infinity) is None; in a DataFrame, whose dtypes are Int64, float64, boolean, object and
    datetime64[us, UTC], it is NA, NaN, NA, None or NaT. A result is converted to its declared dtype if
    nothing is lost (`conversion.converter`); any other result is an error.

    Args:
        view: the view. The plan must be trusted, because the source text of the view is executed.
        dtypes: the dtype of each of its inputs (`FeaturePlan.input_dtypes`).

    Attributes:
        view: the view.
    """

    def __init__(self, view: OnDemandView, dtypes: Mapping[OnDemandInput, Dtype]) -> None:
        self.view = view
        self._dtypes = [dtypes[source] for source in view.inputs]
        self._names = [(name, index) for index, source in enumerate(view.inputs) for name in _names_of(source)]
        self._cleaners = [
            (index, cleaner)
            for index, dtype in enumerate(self._dtypes)
            if (cleaner := input_cleaner(dtype)) is not None
        ]
        self._outputs = [(field.name, field.dtype, converter(field.dtype)) for field in view.features]
        self._function: Callable[[Any], Any] = view.compiled_function

    def compute_row(self, values: list[object]) -> list[object]:
        """Computes the features of one row, in their order.

        Args:
            values: the values of the view's inputs, in their order.

        Raises:
            OnDemandError: the function failed or did not return its features.
        """
        if self.view.mode != "row":
            return [column[0] for column in self.compute_columns([[value] for value in values], 1)]
        inputs = list(values)
        for index, clean in self._cleaners:
            inputs[index] = clean(inputs[index])
        returned = self._call({name: inputs[index] for name, index in self._names})
        features = []
        for name, dtype, convert in self._outputs:
            value = self._result(returned, name)
            try:
                features.append(convert(value))
            except ValueError as error:
                raise self._value_error(name, dtype, error) from error
        return features

    def compute_columns(self, values: Sequence[Sequence[object]], count: int) -> list[list[object]]:
        """Computes the features of `count` rows: a list for each feature, in their order.

        Args:
            values: a column of values for each of the view's inputs, in their order.
            count: the number of rows.

        Raises:
            OnDemandError: the function failed or did not return its features.
        """
        try:
            return self._compute_together(values, count)
        except OnDemandError as error:
            if error.row is None and not isinstance(error, ReturnError):
                error.row = self._failing_row(self._clean(values), count)
            raise

    def compute_valid(
        self, values: Sequence[Sequence[object]], count: int, limit: int, before: int = 0
    ) -> tuple[list[list[object]], dict[int, OnDemandError]]:
        """Computes the features of the rows that the function does not fail on.

        Args:
            values: a column of values for each of the view's inputs, in their order.
            count: the number of rows.
            limit: how many rows it may fail on.
            before: on how many it has failed already, of others.

        Returns:
            A list for each feature, in their order, with None for the rows that the function fails on; and the
            index of each of these rows → the error. Such rows are found by bisection.

        Raises:
            OnDemandError: the function fails on more rows.
        """
        columns: list[list[object]] = [[None] * count for _ in self._outputs]
        failures: dict[int, OnDemandError] = {}
        pending = [(0, count)]
        while pending:
            first, last = pending.pop()
            try:
                results = self._compute_together([column[first:last] for column in values], last - first)
            except OnDemandError as error:
                if error.row is None and last - first > 1:
                    middle = (first + last) // 2
                    pending += [(middle, last), (first, middle)]
                    continue
                error.row = first + (error.row or 0)
                failures[error.row] = error
                if before + len(failures) > limit:
                    is_all = not before and len(failures) == count
                    rows = "every row" if is_all else f"more than {limit:,} rows"
                    error.what += f" (on {rows})"
                    raise
                parts = (error.row + 1, last), (first, error.row)
                pending += [(start, end) for start, end in parts if start < end]
                continue
            for column, result in zip(columns, results, strict=True):
                column[first:last] = result
        return columns, failures

    def _compute_together(self, values: Sequence[Sequence[object]], count: int) -> list[list[object]]:
        if self.view.mode == "row":
            return self._row_by_row(values, count)
        returned = self._call_columns(self._clean(values))
        return [self._column(returned, *output, count) for output in self._outputs]

    def _clean(self, values: Sequence[Sequence[object]]) -> list[list[object]]:
        inputs = [list(column) for column in values]
        for index, clean in self._cleaners:
            inputs[index] = [clean(value) for value in inputs[index]]
        return inputs

    def _row_by_row(self, values: Sequence[Sequence[object]], count: int) -> list[list[object]]:
        columns: list[list[object]] = [[] for _ in self._outputs]
        for index in range(count):
            try:
                row = self.compute_row([column[index] for column in values])
            except OnDemandError as error:
                error.row = index
                raise
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        return columns

    def _call_columns(self, inputs: Sequence[Sequence[Any]]) -> Any:
        if self.view.mode == "pandas":
            return self._call(self._frame(inputs))
        return self._call({name: inputs[index] for name, index in self._names})

    def _frame(self, values: Sequence[Sequence[Any]]) -> Any:
        import pandas as pd

        series = [
            pd.Series(list(column), dtype=_PANDAS.get(dtype, "object"))
            for column, dtype in zip(values, self._dtypes, strict=True)
        ]
        return pd.DataFrame({name: series[index] for name, index in self._names})

    def _column(
        self, returned: Any, name: str, dtype: Dtype, convert: Callable[[Any], Any], count: int
    ) -> list[object]:
        column = self._result(returned, name)
        if isinstance(column, (str, bytes, Mapping, Set)) or not isinstance(column, Iterable):
            raise self._error(ReturnError, f"{name} is not a column of values")
        if self.view.mode == "pandas" and hasattr(column, "sort_index"):
            by_row = column.sort_index()  # the index of a sorted frame still identifies its rows
            column = by_row if list(by_row.index) == list(range(count)) else column
        values = list(column)
        if len(values) != count:
            raise self._error(ReturnError, f"{name} has {len(values)} values for {count} rows")
        converted = []
        for index, value in enumerate(values):
            try:
                converted.append(convert(value))
            except ValueError as error:
                raise self._value_error(name, dtype, error, index) from error
        return converted

    def _failing_row(self, inputs: Sequence[Sequence[object]], count: int) -> int | None:
        """The index of a row that alone makes the function fail, found by bisection; None if there is none."""
        first, last = 0, count
        while last - first > 1:
            middle = (first + last) // 2
            halves = ((first, middle), (middle, last))
            half = next(
                (bounds for bounds in halves if self._fails([column[slice(*bounds)] for column in inputs])),
                None,
            )
            if half is None:
                return None
            first, last = half
        return first if count else None

    def _fails(self, inputs: Sequence[Sequence[object]]) -> bool:
        try:
            self._call_columns(inputs)
        except OnDemandError:
            return True
        return False

    def _call(self, inputs: Any) -> Any:
        try:
            return self._function(inputs)
        except (Exception, SystemExit) as error:
            raise self._error(OnDemandError, f"{type(error).__name__}: {error}") from error

    def _result(self, returned: Any, name: str) -> Any:
        try:
            return returned[name]
        except (KeyError, TypeError, IndexError) as error:
            raise self._error(ReturnError, f"its result lacks {name!r}") from error

    def _value_error(self, name: str, dtype: Dtype, error: ValueError, row: int | None = None) -> OnDemandError:
        value_error = self._error(ReturnError, f"it returned {error} as {name!r}, which is declared as {dtype}")
        value_error.row = row
        return value_error

    def _error(self, kind: type[OnDemandError], what: str) -> OnDemandError:
        return kind(
            f"the on-demand view failed: {what}",
            where=self.view.name,
            remedy="Its function must return all its features, with their types; any input may be missing.",
        )


def _names_of(source: OnDemandInput) -> tuple[str, ...]:
    """The names under which a function receives the input."""
    return (source.name,) if source.view is None else (source.name, f"{source.view}__{source.name}")
