"""SortedColumn: the values of one column, sorted by entity and time, for aggregate functions."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from headrace.features.aggregates.exact import ExactSums, float_sums, whole_sums
from headrace.features.aggregates.hyperloglog import registers_of
from headrace.features.aggregates.log_buckets import buckets_of
from headrace.features.aggregates.moments import square_sums
from headrace.features.aggregates.ranges import prefix_counts

__all__ = ["Floats", "Ints", "SortedColumn", "Values"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = NDArray[Any]


class SortedColumn:
    """The values of one column, without nulls, sorted by (entity, time).

    Args:
        series: the column's values in the order of `keys`; null does not count.
        keys: each value's entity and time as one number: entity · span + time, int64 [n].
        span: the factor of the entity.

    Attributes:
        values: int64 or float64 [n]; strings are replaced by their indexes in the sorted distinct strings.
        is_float: whether the values are floats.
    """

    def __init__(self, series: pl.Series, keys: Ints, span: int) -> None:
        self._span = span
        self._counts_before: Ints | None = None
        if series.null_count():
            counts = series.is_not_null().to_numpy()
            self._counts_before, keys, series = prefix_counts(counts), keys[counts], series.drop_nulls()
        self._names: pl.Series | None = None
        if series.dtype == pl.String:
            self._names = series.unique().sort()
            indexes = pl.DataFrame({"name": self._names, "index": np.arange(len(self._names))})
            joined = series.to_frame("name").join(indexes, on="name", how="left", maintain_order="left")
            series = joined["index"]
        self.values: Values = series.to_numpy()
        self.is_float = self.values.dtype == np.float64
        self._keys = keys

    def ranges_of(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """Converts ranges of events to ranges of the values, which leave out nulls."""
        if self._counts_before is None:
            return low, high
        return self._counts_before[low], self._counts_before[high]

    def names_of(self, values: pl.Series) -> pl.Series:
        """The original values; for strings, the strings at these indexes."""
        return values if self._names is None else self._names.gather(values)

    def series_of(self, values: Values, present: NDArray[np.bool_], *, named: bool = False) -> pl.Series:
        """Results as a series, null where `present` is false; `named` if they are values of the column."""
        # Not by pa.array(), which imports pandas.
        series = pl.select(pl.when(pl.Series(present)).then(pl.Series(values))).to_series()
        return self.names_of(series) if named else series

    def lists_of(self, values: Values, sizes: Ints) -> pl.Series:
        """Values of the column as lists of these sizes, null for an empty one."""
        items = self.names_of(pl.Series(values))
        # Not by pa.array(), which imports pandas.
        offsets: Any = pl.Series(np.append(0, np.cumsum(sizes))).to_arrow()
        empty: Any = pl.Series(sizes == 0).to_arrow()
        return pl.Series(values=pa.LargeListArray.from_arrays(offsets, items.to_arrow(), mask=empty))

    @cached_property
    def buckets(self) -> tuple[Ints, Ints]:
        """The distinct buckets of the values (`log_buckets`) in order, and each value's index in them."""
        return np.unique(buckets_of(self.values), return_inverse=True)

    @cached_property
    def registers(self) -> tuple[Ints, Ints]:
        """Each value's register and rank (`hyperloglog`)."""
        return registers_of(self.values, self._names)

    @cached_property
    def sums(self) -> ExactSums:
        """Exact prefix sums of the values."""
        return float_sums(self.values) if self.is_float else whole_sums(self.values)

    @cached_property
    def squares(self) -> ExactSums:
        """Exact prefix sums of the values' squares."""
        return square_sums(self.values)

    @cached_property
    def wrapped_sums(self) -> Ints:
        """Prefix sums of whole numbers, wrapped around as int64."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.values)])

    @cached_property
    def in_order(self) -> Values:
        """The values, with those of the same entity and time sorted by size."""
        tied = self._keys[1:] == self._keys[:-1]
        if not tied.any():
            return self.values
        indexes = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        values = self.values.copy()
        values[indexes] = values[indexes][np.lexsort((values[indexes], self._keys[indexes]))]
        return values

    @cached_property
    def previous_equal(self) -> Ints:
        """For each value, the index of the entity's previous equal value plus one, or 0."""
        entity = self._keys // self._span
        order = np.lexsort((self.values, entity))  # stable: equal values stay in order of time
        same = (entity[order][1:] == entity[order][:-1]) & (self.values[order][1:] == self.values[order][:-1])
        previous = np.zeros(len(order), dtype=np.int64)
        previous[order[1:][same]] = order[:-1][same] + 1
        return previous
