"""The most frequent values, percentiles, and the approximate number of distinct values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl

from headrace.features.aggregates.aggregate import (
    Aggregate,
    TilePart,
    TileReader,
    Track,
    restore_of,
)
from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.aggregates.hyperloglog import TOP_RANK, estimate, estimates, register_of, terms
from headrace.features.aggregates.log_buckets import bucket_of, middle_of, middles_of
from headrace.features.aggregates.ranges import expand, expand_in_chunks, select_smallest
from headrace.features.aggregates.sums import check_number
from headrace.features.plan import Dtype

__all__ = ["ApproximateCountDistinct", "Percentile", "TopK"]


class TopK(Aggregate):
    """The k most frequent values, the most frequent first; of equally frequent ones the smaller first."""

    name = "top_k"
    spellings = ("top_k(n)",)
    largest_n: ClassVar[int] = 1000

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return f"list[{column}]"  # type: ignore[return-value]

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        values, sizes = [], np.zeros(len(low), dtype=np.int64)
        for begin, end in expand_in_chunks(low, high):
            rows, indexes = expand(low[begin:end], high[begin:end])
            counts = pl.DataFrame({"row": rows, "value": column.values[indexes]}).group_by("row", "value").len()
            top = (
                counts.sort("row", "len", "value", descending=[False, True, False])
                .group_by("row", maintain_order=True)
                .head(self.n)
            )
            values.append(top["value"].to_numpy())
            sizes[begin:end] = np.bincount(top["row"].to_numpy(), minlength=end - begin)
        return column.lists_of(np.concatenate([column.values[:0], *values]), sizes)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (TilePart("frequencies", lambda _, values: _count(values), _add),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index, restore, k = indexes["frequencies"], restore_of(column), self.n

        def read(tiles: Track, _: list[int], values: list[Any]) -> object:
            counts = _total(tiles[index], values)
            top = sorted(counts, key=lambda value: (-counts[value], value))[:k]
            if not top:
                return None
            return top if restore is None else [restore(value) for value in top]

        return read


class Percentile(Aggregate):
    """The n-th percentile by the nearest rank, within 0.8 % of itself (`log_buckets`); null for no values."""

    name = "percentile"
    spellings = ("percentile(n)",)
    largest_n: ClassVar[int] = 99

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        check_number(column)
        return "float64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        buckets, codes = column.buckets
        present = high > low
        results = np.zeros(len(low))
        ranks = self._rank(high[present] - low[present])
        chosen = select_smallest(codes, low[present], high[present], ranks - 1)
        results[present] = middles_of(buckets[chosen])
        return column.series_of(results, present)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (TilePart("buckets", lambda _, values: _count(map(bucket_of, values)), _add),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index = indexes["buckets"]

        def read(tiles: Track, _: list[int], values: list[Any]) -> object:
            counts = _total(tiles[index], map(bucket_of, values))
            left = self._rank(counts.total()) if counts else 0
            for bucket in sorted(counts):
                left -= counts[bucket]
                if left <= 0:
                    return middle_of(bucket)
            return None

        return read

    def _rank(self, counts: Any) -> Any:
        """Which of so many values in order is the percentile: the first that has n % of them up to it."""
        return (self.n * counts + 99) // 100


class ApproximateCountDistinct(Aggregate):
    """The number of distinct values, with a standard error of 1.6 % (`hyperloglog`); 0 for no values."""

    name = "approx_count_distinct"
    spellings = ("approx_count_distinct",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return "int64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        registers, ranks = column.registers
        results = np.zeros(len(low), dtype=np.int64)
        for begin, end in expand_in_chunks(low, high):
            rows, indexes = expand(low[begin:end], high[begin:end])
            frame = pl.DataFrame({"row": rows, "register": registers[indexes], "rank": ranks[indexes]})
            highest = frame.group_by("row", "register").agg(pl.col("rank").max())
            sums = (
                highest.with_columns(pl.Series("term", terms(highest["rank"].to_numpy())))
                .group_by("row")
                .agg(pl.len().cast(pl.Int64), pl.col("term").sum())
            )
            of_rows = estimates(sums["len"].to_numpy(), sums["term"].to_numpy())
            results[begin + sums["row"].to_numpy()] = of_rows
        return pl.Series(results, dtype=pl.Int64)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (TilePart("registers", lambda _, values: _registers([], values, column), _merge),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index = indexes["registers"]

        def read(tiles: Track, _: list[int], values: list[Any]) -> object:
            ranks = _highest_ranks(tiles[index], values, column).values()
            return estimate(len(ranks), sum(map(_TERMS.__getitem__, ranks)))

        return read


_TERMS = [terms(rank) for rank in range(TOP_RANK + 1)]
_Counts = dict[Any, int]


def _count(values: Iterable[Any]) -> _Counts:
    """How often each value occurs, in the order of the values."""
    return dict(sorted(Counter(values).items()))


def _add(left: _Counts, right: _Counts) -> _Counts:
    return dict(sorted((Counter(left) + Counter(right)).items()))


def _total(tiles: Iterable[_Counts], values: Iterable[Any]) -> Counter[Any]:
    counts = Counter(values)
    for tile in tiles:
        counts.update(tile)
    return counts


def _registers(tiles: Iterable[dict[int, int]], values: Iterable[Any], column: Dtype) -> dict[int, int]:
    """The greatest rank of each register, in the order of the registers."""
    return dict(sorted(_highest_ranks(tiles, values, column).items()))


def _highest_ranks(tiles: Iterable[dict[int, int]], values: Iterable[Any], column: Dtype) -> dict[int, int]:
    """Register → its greatest rank, in any order."""
    highest: dict[int, int] = {}
    known = highest.get
    for tile in tiles:
        if highest:
            tile = {register: rank for register, rank in tile.items() if known(register, 0) < rank}
        highest.update(tile)
    for value in values:
        register, rank = register_of(value, column)
        if known(register, 0) < rank:
            highest[register] = rank
    return highest


def _merge(left: dict[int, int], right: dict[int, int]) -> dict[int, int]:
    return _registers([left, right], [], "int64")
