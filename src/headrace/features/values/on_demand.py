"""On-demand views: features that a function computes at the moment of asking, offline and online alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from headrace.features.plan import Dtype, OnDemandInput, OnDemandView
from headrace.features.values.conversion import converter, input_cleaner
from headrace.kernel.errors import HeadraceError

__all__ = ["OnDemand", "OnDemandError", "ReturnError"]

# A frame's dtypes are the plan's, not guessed from its rows: else one row alone would differ from the same
# row in company. Those of integers and booleans can hold a missing value.
_PANDAS: dict[str, str] = {
    "int64": "Int64",
    "float64": "float64",
    "bool": "boolean",
    "timestamp": "datetime64[us, UTC]",
}


class OnDemandError(HeadraceError):
    """An on-demand function failed, or returned something else than its features.

    Attributes:
        row: the place of the row that it failed on; None: it failed on no single row.
    """

    row: int | None = None


class ReturnError(OnDemandError):
    """An on-demand function returned something else than its features."""


class OnDemand:
    """One on-demand view, ready to be called.

    A function's input is known to it by its name, and a feature also as `view__name`. A missing input (null,
    NaN or infinity) reaches the function as None; in a DataFrame, whose dtypes are Int64, float64, boolean,
    object and datetime64[us, UTC], as NA, NaN, NA, None and NaT. What it returns becomes the declared dtype
    where nothing is lost (`conversion.converter`), and is an error elsewhere.

    Args:
        view: what it is. Its text is run: the plan must be trusted.
        dtypes: the dtype of each of its inputs (`Plan.input_dtypes`).

    Attributes:
        view: what it is.
    """

    def __init__(self, view: OnDemandView, dtypes: Mapping[OnDemandInput, Dtype]) -> None:
        self.view = view
        self._dtypes = [dtypes[one] for one in view.inputs]
        self._names = [
            (name, place)
            for place, one in enumerate(view.inputs)
            for name in ((one.name,) if one.view is None else (one.name, f"{one.view}__{one.name}"))
        ]
        self._cleaners = [
            (place, cleaner)
            for place, dtype in enumerate(self._dtypes)
            if (cleaner := input_cleaner(dtype)) is not None
        ]
        self._outputs = [(one.name, one.dtype, converter(one.dtype)) for one in view.features]
        self._function: Callable[[Any], Any] = view.compiled_function

    def compute_row(self, values: list[object]) -> list[object]:
        """The features of one row, in their order.

        Args:
            values: of the view's inputs, in their order.

        Raises:
            OnDemandError: the function failed or returned something else than its features.
        """
        if self.view.mode != "row":
            return [column[0] for column in self.compute_columns([[value] for value in values], 1)]
        given = list(values)
        for place, clean in self._cleaners:
            given[place] = clean(given[place])
        returned = self._call({name: given[place] for name, place in self._names})
        features = []
        for name, dtype, convert in self._outputs:
            value = self._named(returned, name)
            try:
                features.append(convert(value))
            except ValueError as error:
                raise self._wrong_value(name, dtype, error) from error
        return features

    def compute_columns(self, values: Sequence[Sequence[object]], count: int) -> list[list[object]]:
        """The features of `count` rows, a list for each feature in their order.

        Args:
            values: of the view's inputs, in their order: a column for each.
            count: how many rows.

        Raises:
            OnDemandError: the function failed or returned something else than its features.
        """
        if self.view.mode == "row":
            return self._row_by_row(values, count)
        given = [list(column) for column in values]
        for place, clean in self._cleaners:
            given[place] = [clean(value) for value in given[place]]
        try:
            returned = self._call_columns(given)
        except OnDemandError as error:
            error.row = self._failing_row(given, count)
            raise
        return [self._column(returned, *output, count) for output in self._outputs]

    def _row_by_row(self, values: Sequence[Sequence[object]], count: int) -> list[list[object]]:
        columns: list[list[object]] = [[] for _ in self._outputs]
        for place in range(count):
            try:
                row = self.compute_row([column[place] for column in values])
            except OnDemandError as error:
                error.row = place
                raise
            for column, value in zip(columns, row, strict=True):
                column.append(value)
        return columns

    def _call_columns(self, given: Sequence[Sequence[Any]]) -> Any:
        if self.view.mode == "pandas":
            return self._call(self._frame(given))
        return self._call({name: given[place] for name, place in self._names})

    def _frame(self, values: Sequence[Sequence[Any]]) -> Any:
        import pandas as pd

        series = [
            pd.Series(list(column), dtype=_PANDAS.get(dtype, "object"))
            for column, dtype in zip(values, self._dtypes, strict=True)
        ]
        return pd.DataFrame({name: series[place] for name, place in self._names})

    def _column(
        self, returned: Any, name: str, dtype: Dtype, convert: Callable[[Any], Any], count: int
    ) -> list[object]:
        column = self._named(returned, name)
        if isinstance(column, (str, bytes, Mapping, Set)) or not isinstance(column, Iterable):
            raise self._error(ReturnError, f"{name} is not a column of values")
        if self.view.mode == "pandas" and hasattr(column, "sort_index"):
            by_row = column.sort_index()  # a frame that was sorted still says which row is which
            column = by_row if list(by_row.index) == list(range(count)) else column
        values = list(column)
        if len(values) != count:
            raise self._error(ReturnError, f"{name} has {len(values)} values for {count} rows")
        converted = []
        for place, value in enumerate(values):
            try:
                converted.append(convert(value))
            except ValueError as error:
                raise self._wrong_value(name, dtype, error, place) from error
        return converted

    def _failing_row(self, given: Sequence[Sequence[object]], count: int) -> int | None:
        """The place of a row that the function fails on alone, found by halves; None where it needs company."""
        first, last = 0, count
        while last - first > 1:
            middle = (first + last) // 2
            halves = ((first, middle), (middle, last))
            half = next((one for one in halves if self._fails([column[slice(*one)] for column in given])), None)
            if half is None:
                return None
            first, last = half
        return first if count else None

    def _fails(self, given: Sequence[Sequence[object]]) -> bool:
        try:
            self._call_columns(given)
        except OnDemandError:
            return True
        return False

    def _call(self, inputs: Any) -> Any:
        try:
            return self._function(inputs)
        except Exception as error:
            raise self._error(OnDemandError, f"{type(error).__name__}: {error}") from error

    def _named(self, returned: Any, name: str) -> Any:
        try:
            return returned[name]
        except (KeyError, TypeError, IndexError) as error:
            raise self._error(ReturnError, f"it returned no {name!r}") from error

    def _wrong_value(self, name: str, dtype: Dtype, error: ValueError, row: int | None = None) -> OnDemandError:
        wrong = self._error(ReturnError, f"it returned {error} as {name!r}, which is declared as {dtype}")
        wrong.row = row
        return wrong

    def _error(self, kind: type[OnDemandError], what: str) -> OnDemandError:
        return kind(
            f"the on-demand view failed: {what}",
            where=self.view.name,
            remedy="Its function must return each of its features, of its type; an input may be missing.",
        )
