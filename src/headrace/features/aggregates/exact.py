"""Sums of floats that do not depend on the order in which they are added.

A window's sum is the exact sum of its values, rounded once; beyond the range of a double it is infinite.
Offline it is a difference of prefix sums, and online it comes from tiles. Both must be exact: with plain
floats the two would differ in the last digits, and one huge value would spoil every sum after it.

Offline, every value is split into whole multiples of a few powers of two, and whole numbers add up
exactly. Values of very different size have separate prefix sums (bands), so that one huge value costs the
others neither digits nor memory. Online, a sum is kept as a few floats that add up to it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Band",
    "ExactSums",
    "Total",
    "float_sums",
    "mean_of",
    "range_means",
    "range_sums",
    "range_units",
    "sum_of",
    "total_of",
    "two_sum",
    "units_of",
    "whole_sums",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Total = list[float | str]
"""An exact sum as floats that add up to it. A sum that no double can hold is a string instead: its value in
units of 2^-1074, in hexadecimal digits."""

_BAND = 64  # the exponents of a band's values differ by less than this
_SMALLEST = -1074  # every finite double is a multiple of 2^-1074
_LOW = np.int64((1 << 31) - 1)
_CHUNK = 1 << 15  # values that are computed together, so that they stay in the processor's cache
_EXACT = 1 << 53  # doubles hold every whole number up to this one


class Band(NamedTuple):
    """Prefix sums of some of n values: limb k counts multiples of 2^exponents[k].

    Attributes:
        indexes: the indexes of the band's values among the n, int64 in order; None for all of them.
        exponents: one exponent for each limb.
        limbs: prefix sums, each int64 and one longer than the band has values.
    """

    indexes: Ints | None
    exponents: list[int]
    limbs: list[Ints]

    def counts(self, low: Ints, high: Ints) -> Iterator[tuple[int, Ints]]:
        """For each limb its exponent, and its count in each range."""
        if self.indexes is not None:
            low, high = np.searchsorted(self.indexes, low), np.searchsorted(self.indexes, high)
        for exponent, limb in zip(self.exponents, self.limbs, strict=True):
            yield exponent, limb[high] - limb[low]


ExactSums = list[Band]
"""Prefix sums of n values."""


def float_sums(values: Floats) -> ExactSums:
    """The prefix sums of finite floats [n], n < 2^40."""
    sizes = np.abs(values)
    largest = float(sizes.max(initial=0.0))
    if not largest:
        return []
    top = math.frexp(largest)[1]
    if top - math.frexp(float(np.where(sizes > 0, sizes, largest).min()))[1] < _BAND:
        return [_band(None, values, top)]
    exponents = np.frexp(sizes)[1]
    exponents[sizes == 0] = top
    bands: ExactSums = []
    for exponent in sorted(set(exponents.tolist()), reverse=True):
        if not bands or exponent <= top - _BAND:
            top = exponent
            indexes = np.flatnonzero((exponents <= top) & (exponents > top - _BAND))
            bands.append(_band(indexes, values[indexes], top))
    return bands


def _band(indexes: Ints | None, values: Floats, top: int) -> Band:
    """The prefix sums of floats below 2^top, of which one is not 0."""
    exponents: list[int] = []
    limbs: list[Ints] = []
    # n values below 2^bits add up to less than 2^62.
    bits = 62 - len(values).bit_length()
    for begin in range(0, len(values), _CHUNK):
        rest, place = values[begin : begin + _CHUNK], 0
        while rest.any():
            if place == len(limbs):
                exponents.append(max((exponents[-1] if exponents else top) - bits, _SMALLEST))
                limbs.append(np.zeros(len(values) + 1, dtype=np.int64))
            # Scaling by a power of two is exact, and the remainder keeps its sign.
            counts = np.trunc(_scale(rest, -exponents[place]))
            limbs[place][begin + 1 : begin + 1 + len(counts)] = counts
            rest = rest - _scale(counts, exponents[place])
            place += 1
    return Band(indexes, exponents, [np.cumsum(limb, out=limb) for limb in limbs])


def _scale(values: Floats, exponent: int) -> Floats:
    """values · 2^exponent, rounded once, as `np.ldexp` does; that calls a function for each value."""
    return values * 2.0**exponent if abs(exponent) < 1023 else np.ldexp(values, exponent)


def whole_sums(values: Ints) -> ExactSums:
    """The prefix sums of whole numbers [n], n < 2^31."""
    largest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
    if largest * len(values) < 1 << 63:
        return [Band(None, [0], [_prefix(values)])]
    return [Band(None, [32, 0], [_prefix(values >> 32), _prefix(values & ((1 << 32) - 1))])]


def range_sums(sums: ExactSums, low: Ints, high: Ints) -> Floats:
    """The sum over each [low, high), float64 [m], correctly rounded; ±inf beyond a double's range."""
    result = np.empty(len(low))
    for begin in range(0, len(low), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        result[chunk] = _range_sums(sums, low[chunk], high[chunk])
    return result


def _range_sums(sums: ExactSums, low: Ints, high: Ints) -> Floats:
    total, error, slack = (np.zeros(len(low)) for _ in range(3))  # the sum is total + error ± slack
    base = min((exponent for band in sums for exponent in band.exponents), default=0)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, term in enumerate(_terms(sums, low, high, base)):
            if number == 0:
                total = term
                continue
            total, lost = two_sum(total, term)
            if number == 1:
                error = lost
                continue
            error, lost = two_sum(error, lost)
            slack += np.abs(lost)
        result = _scale(total + error, base)
        certain = np.isfinite(total)  # an intermediate sum may have overflowed
        if slack.any():
            slack *= 1.001  # for its own rounding
            least = total + np.nextafter(error - slack, -np.inf)
            certain &= (slack == 0) | (least == total + np.nextafter(error + slack, np.inf))
    unsure = np.flatnonzero(~certain)
    if len(unsure):
        result[unsure] = [_round(units) for units in range_units(sums, low[unsure], high[unsure])]
    return result


def range_means(sums: ExactSums, low: Ints, high: Ints) -> Floats:
    """For each range its rounded sum divided by its number of values; 0 for an empty range.

    If no double can hold the sum, the result is the exact mean, rounded once.
    """
    totals, counts = range_sums(sums, low, high), np.maximum(high - low, 1)
    means: Floats = totals / counts
    over = np.flatnonzero(np.isinf(totals))
    if len(over):
        units = range_units(sums, low[over], high[over])
        means[over] = [_round(*pair) for pair in zip(units, counts[over].tolist(), strict=True)]
    return means


def _terms(sums: ExactSums, low: Ints, high: Ints, base: int) -> Iterator[Floats]:
    """Floats that add up to each range's sum, in units of 2^base."""
    for band in sums:
        for exponent, count in band.counts(low, high):
            for part in _as_floats(count):
                yield _scale(part, exponent - base)


def total_of(values: Iterable[float | str]) -> Total:
    """The exact sum of finite floats and of other totals' items; the same list in whatever order they come."""
    parts: Total = []
    rest: list[Any] = list(values)
    count = len(rest)
    try:
        while part := math.fsum(rest):
            parts.append(part)
            rest.append(-part)
        return parts
    except (OverflowError, TypeError):  # an intermediate sum is too large for a double, or an item is a string
        return _total_of_units(units_of(rest[:count]))


def sum_of(values: list[Any]) -> float:
    """The sum of finite floats and of totals' items, rounded once; ±inf beyond a double's range."""
    try:
        return math.fsum(values)
    except (OverflowError, TypeError):
        return _round(units_of(values))


def mean_of(values: list[Any], count: int) -> float:
    """The mean of `count` floats, given as values and totals' items, computed as by `range_means`."""
    total = sum_of(values)
    return _round(units_of(values), count) if math.isinf(total) else total / count


def range_units(sums: ExactSums, low: Ints, high: Ints, unit: int = _SMALLEST) -> list[int]:
    """The sum over each range in units of 2^unit, of which every value is a multiple."""
    totals = [0] * len(low)
    for band in sums:
        for exponent, counts in band.counts(low, high):
            shift = exponent - unit
            wholes = counts.tolist()
            wholes = [n << shift for n in wholes] if shift >= 0 else [n >> -shift for n in wholes]
            totals = [total + whole for total, whole in zip(totals, wholes, strict=True)]
    return totals


def units_of(values: list[float | str]) -> int:
    """The sum of floats and totals' items in units of 2^-1074."""
    return sum(int(value, 16) if isinstance(value, str) else _units(value) for value in values)


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return (numerator << -_SMALLEST) // denominator


def _total_of_units(units: int) -> Total:
    parts: Total = []
    while units:
        part = _round(units)
        if math.isinf(part):
            return [hex(units)]
        parts.append(part)
        units -= _units(part)
    return parts


def _round(units: int, divisor: int = 1) -> float:
    """units / divisor · 2^-1074, rounded once; ±inf beyond a double's range."""
    try:
        return units / (divisor << -_SMALLEST)
    except OverflowError:
        return math.inf if units > 0 else -math.inf


def _as_floats(count: Ints) -> list[Floats]:
    """Whole numbers as one or two floats each that add up to them exactly."""
    if len(count) == 0 or max(int(count.max()), -int(count.min())) <= _EXACT:
        return [count.astype(np.float64)]
    return [(count & ~_LOW).astype(np.float64), (count & _LOW).astype(np.float64)]


def two_sum(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """The rounded sum and its rounding error (Knuth's two-sum)."""
    total = left + right
    shadow = total - left
    return total, (left - (total - shadow)) + (right - shadow)


def _prefix(counts: Ints) -> Ints:
    out = np.empty(len(counts) + 1, dtype=np.int64)
    out[0] = 0
    np.cumsum(counts, out=out[1:])
    return out
