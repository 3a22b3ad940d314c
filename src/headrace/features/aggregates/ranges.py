"""Aggregates over many ranges [low, high) of one array, without a loop over the ranges.

For n values and m ranges, low and high are int64 [m] with 0 ≤ low ≤ high ≤ n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "count_distinct",
    "expand",
    "expand_in_chunks",
    "prefix_counts",
    "range_extremes",
    "select_smallest",
]

Ints = NDArray[np.int64]
Values = NDArray[Any]


_EXPANDED = 4_000_000  # values that are expanded at once


def expand(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """The index of the range, and the index of the value, for every value of every range, in order."""
    sizes = high - low
    rows = np.repeat(np.arange(len(low)), sizes)
    return rows, np.arange(len(rows)) + np.repeat(low - (np.cumsum(sizes) - sizes), sizes)


def expand_in_chunks(low: Ints, high: Ints) -> Iterator[tuple[int, int]]:
    """Consecutive slices of the ranges with at most _EXPANDED values each, unless a single range has more."""
    ends = np.cumsum(high - low)
    begin = 0
    while begin < len(ends):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + _EXPANDED, "right")), begin + 1)
        yield begin, end
        begin = end


def select_smallest(codes: Ints, low: Ints, high: Ints, ranks: Ints) -> Ints:
    """The code of this rank (0 is the smallest) in each range, int64 [m].

    A wavelet matrix finds it, as in `count_distinct`: O((n + m) log c) for codes up to c.

    Args:
        codes: int64 [n], from 0.
        low, high: the ranges, none empty.
        ranks: int64 [m], less than the range's length.
    """
    chosen, left, right, rank = np.zeros(len(low), dtype=np.int64), low, high, ranks
    for bit, zeros, ones_before in _wavelet_matrix(codes, int(codes.max(initial=0)).bit_length()):
        left_ones, right_ones = ones_before[left], ones_before[right]
        zeros_inside = (right - left) - (right_ones - left_ones)
        takes_one = rank >= zeros_inside
        chosen |= np.where(takes_one, 1 << bit, 0)
        rank = rank - np.where(takes_one, zeros_inside, 0)
        left = np.where(takes_one, zeros + left_ones, left - left_ones)
        right = np.where(takes_one, zeros + right_ones, right - right_ones)
    return chosen


def prefix_counts(counts: NDArray[np.bool_]) -> Ints:
    """For each i, how many of the first i values count, int64 [n + 1]."""
    out = np.empty(len(counts) + 1, dtype=np.int64)
    out[0] = 0
    np.cumsum(counts, out=out[1:])
    return out


def range_extremes(values: Values, low: Ints, high: Ints, *, largest: bool) -> Values:
    """The smallest (or largest) value of each range [m]; an arbitrary value for an empty range.

    Two overlapping blocks, whose length is the largest power of two that fits, cover a range. The blocks
    of each length are made once from those of half the length: O(n log(longest) + m).
    """
    better = np.maximum if largest else np.minimum
    out = np.zeros(len(low), dtype=values.dtype)
    # frexp's exponent of a whole number is its bit length, exactly, below 2^53.
    level_of = np.frexp((high - low).astype(np.float64))[1] - 1
    blocks = values
    for level in range(int(level_of.max(initial=-1)) + 1):
        if level:
            half = 1 << (level - 1)
            blocks = better(blocks[:-half], blocks[half:])
        at_level = np.flatnonzero(level_of == level)
        if len(at_level):
            out[at_level] = better(blocks[low[at_level]], blocks[high[at_level] - (1 << level)])
    return out


def count_distinct(previous: Ints, low: Ints, high: Ints) -> Ints:
    """The number of distinct values in each range, int64 [m].

    A value is the first of its kind in a range if the previous equal value lies before the range. A wavelet
    matrix counts such values: O((n + m) log n).

    Args:
        previous: for each value, the index of the previous equal value plus one; 0 if it is the first.
        low, high: the ranges.
    """
    count = np.zeros(len(low), dtype=np.int64)
    # `previous` ≤ low means that the previous equal value lies before the range.
    bound = low + 1
    left, right = low, high
    for bit, zeros, ones_before in _wavelet_matrix(previous, (len(previous) + 1).bit_length()):
        left_ones, right_ones = ones_before[left], ones_before[right]
        takes_one = (bound >> bit) & 1 == 1
        count += np.where(takes_one, (right - left) - (right_ones - left_ones), 0)
        left = np.where(takes_one, zeros + left_ones, left - left_ones)
        right = np.where(takes_one, zeros + right_ones, right - right_ones)
    return count


def _wavelet_matrix(values: Ints, bits: int) -> Iterator[tuple[int, int, Ints]]:
    """The levels of the wavelet matrix of values from 0 below 2^bits (Claude, Navarro and Ordóñez, 2015).

    For each bit, the highest first: the bit, how many values have a 0 there, and for each i, how many of the
    first i have a 1. For the next level the values are divided by the bit, those with a 0 first.
    """
    for bit in range(bits - 1, -1, -1):
        ones = (values >> bit) & 1 == 1
        ones_before = prefix_counts(ones)
        yield bit, len(values) - int(ones_before[-1]), ones_before
        values = np.concatenate([values[~ones], values[ones]])
