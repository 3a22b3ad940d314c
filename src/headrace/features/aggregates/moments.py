"""The sample variance of floats and whole numbers, correctly rounded in any order of arrival.

The variance of n values is (n Σx² - (Σx)²) / (n (n - 1)). The difference cancels most digits where the values
are large and alike, so both sums must be exact, and so must the difference. Offline, each is a difference of
exact prefix sums (`exact`), taken apart into digits of 26 bits, so that the products are whole numbers that
int64 holds. Online, both are whole numbers of Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.features.aggregates.exact import (
    Band,
    ExactSums,
    float_sums,
    range_units,
    two_sum,
    whole_sums,
)

__all__ = ["SQUARE_UNIT", "range_deviations", "range_variances", "root_of", "square_sums", "variance_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SQUARE_UNIT = 2 * -1074
"""Every square of a finite double is a multiple of 2 to this power."""

_BITS = 26
_DIGIT = (1 << _BITS) - 1
_MAX_DIGITS = 34  # of a result: 884 bits, so that a double holds it
_CHUNK = 1 << 14  # rows that are computed together, so that their digits stay in the processor's cache
_MAX_COUNT = 1 << 26  # n (n - 1) is exact as a double
_SMALLEST_NORMAL = 2.0**-1022
_SAFE = 2.0**400  # a double between 1 / _SAFE and _SAFE has a square whose two parts are exact
_SCALE = 600


def square_sums(values: NDArray[Any]) -> ExactSums:
    """The prefix sums of the squares of finite floats or of whole numbers [n]."""
    if values.dtype != np.float64:
        return _whole_square_sums(values)
    sizes = np.abs(values)
    small, large = (sizes > 0) & (sizes < 1 / _SAFE), sizes > _SAFE
    if not (small.any() or large.any()):
        return [band for part in two_product(values, values) for band in float_sums(part)]
    bands: ExactSums = []
    for chosen, scale in ((~small & ~large, 0), (small, _SCALE), (large, -_SCALE)):
        indexes = np.flatnonzero(chosen)
        scaled = np.ldexp(values[indexes], scale)
        for part in two_product(scaled, scaled):
            bands += [_move(band, indexes, -2 * scale) for band in float_sums(part)]
    return bands


def _whole_square_sums(values: Ints) -> ExactSums:
    if max(int(values.max(initial=0)), -int(values.min(initial=0))) < 1 << 31:
        return whole_sums(values * values)
    mask = (1 << 21) - 1
    high, middle, low = values >> 42, (values >> 21) & mask, values & mask
    products = {
        84: high * high,
        63: 2 * high * middle,
        42: 2 * high * low + middle * middle,
        21: 2 * middle * low,
        0: low * low,
    }
    return [_move(band, None, exponent) for exponent, part in products.items() for band in whole_sums(part)]


def _move(band: Band, indexes: Ints | None, exponent: int) -> Band:
    """The band of values at these indexes, times 2^exponent."""
    if indexes is not None:
        indexes = indexes if band.indexes is None else indexes[band.indexes]
    return Band(indexes, [exponent + own for own in band.exponents], band.limbs)


def range_variances(sums: ExactSums, squares: ExactSums, low: Ints, high: Ints) -> Floats:
    """The sample variance of each range, float64 [m], rounded once; 0 for fewer than two values.

    Args:
        sums, squares: the exact prefix sums of the values and of their squares.
        low, high: the ranges, int64 [m].
    """
    result = np.zeros(len(low))
    certain = high - low < 2
    several = np.flatnonzero(~certain & (high - low < _MAX_COUNT))
    for begin in range(0, len(several), _CHUNK):
        rows = several[begin : begin + _CHUNK]
        for chosen, of_sums, of_squares in _groups(sums, squares, low[rows], high[rows]):
            group = rows[chosen]
            values = _variances(high[group] - low[group], of_sums, of_squares)
            if values is not None:
                result[group], certain[group] = values
    unsure = np.flatnonzero(~certain)
    if len(unsure):
        ratios = _ratios(sums, squares, low[unsure], high[unsure])
        result[unsure] = [variance_of(*ratio) for ratio in ratios]
    return result


def range_deviations(sums: ExactSums, squares: ExactSums, low: Ints, high: Ints) -> Floats:
    """The sample standard deviation of each range, float64 [m]; 0 for fewer than two values.

    It is the square root of the variance, or, where that is not a normal double, the root of the true variance.
    """
    variances = range_variances(sums, squares, low, high)
    result: Floats = np.sqrt(variances)
    odd = np.isinf(variances)
    if min((exponent for band in squares for exponent in band.exponents), default=0) < -900:
        odd |= (variances < _SMALLEST_NORMAL) & (high - low >= 2)
    rows = np.flatnonzero(odd)
    if len(rows):
        result[rows] = [root_of(*ratio) for ratio in _ratios(sums, squares, low[rows], high[rows])]
    return result


def variance_of(count: int, total: int, squares: int) -> float:
    """The sample variance of `count` > 1 values, rounded once; ±inf beyond a double's range.

    Args:
        count: the number of values.
        total: their exact sum in units of 2^-1074.
        squares: the exact sum of their squares in units of 2^SQUARE_UNIT.
    """
    try:
        return (count * squares - total * total) / (count * (count - 1) << -SQUARE_UNIT)
    except OverflowError:
        return math.inf


def root_of(count: int, total: int, squares: int) -> float:
    """The sample standard deviation; arguments as of `variance_of`."""
    variance = variance_of(count, total, squares)
    if _SMALLEST_NORMAL <= variance < math.inf:
        return math.sqrt(variance)
    numerator, divisor = count * squares - total * total, count * (count - 1)
    # The root as a whole number of about 64 bits; its last bit says whether anything follows.
    shift = (128 - numerator.bit_length() + divisor.bit_length()) // 2 * 2
    scaled, over = (numerator << shift, divisor) if shift >= 0 else (numerator, divisor << -shift)
    root = math.isqrt(scaled // over)
    root |= root * root * over != scaled
    exponent = (SQUARE_UNIT - shift) // 2
    try:
        return root / (1 << -exponent) if exponent < 0 else float(root << exponent)
    except OverflowError:
        return math.inf


def _ratios(sums: ExactSums, squares: ExactSums, low: Ints, high: Ints) -> Iterator[tuple[int, int, int]]:
    return zip(
        (high - low).tolist(),
        range_units(sums, low, high),
        range_units(squares, low, high, SQUARE_UNIT),
        strict=True,
    )


_Terms = list[tuple[int, Ints]]
"""Whole numbers [m] by exponent: they add up to one number a row."""


def _groups(
    sums: ExactSums, squares: ExactSums, low: Ints, high: Ints
) -> Iterator[tuple[Ints, _Terms, _Terms]]:
    """The rows by the bands that they have values in: a band of rare values makes its own rows wide only."""
    terms = [[list(band.counts(low, high)) for band in bands] for bands in (sums, squares)]
    pattern = np.zeros(len(low), dtype=np.int64)
    for number, band in enumerate(band for bands in terms for band in bands):
        for _, count in band:
            pattern |= np.where(count != 0, np.int64(1) << min(number, 62), 0)
    for bits in np.unique(pattern).tolist():
        rows = np.flatnonzero(pattern == bits)
        number = 0
        chosen: list[_Terms] = []
        for bands in terms:
            of_bands: _Terms = []
            for band in bands:
                if bits >> min(number, 62) & 1:
                    of_bands += [(exponent, count[rows]) for exponent, count in band]
                number += 1
            chosen.append(of_bands)
        yield rows, chosen[0], chosen[1]


def _variances(counts: Ints, sums: _Terms, squares: _Terms) -> tuple[Floats, NDArray[np.bool_]] | None:
    """The variances, and whether each is certainly rounded right; None if the numbers are too long."""
    exponents = [exponent for exponent, _ in sums] + [exponent // 2 for exponent, _ in squares]
    base = min(exponents, default=0)
    length = max(
        [2 * (exponent - base) for exponent, _ in sums] + [exponent - 2 * base for exponent, _ in squares],
        default=0,
    )
    if length // _BITS + 8 > _MAX_DIGITS:
        return None
    total, square = _digits(sums, base, len(counts)), _digits(squares, 2 * base, len(counts))
    difference = [np.zeros(len(counts), dtype=np.int64) for _ in range(max(2 * len(total), len(square) + 1))]
    for place, digit in enumerate(square):
        difference[place] += digit * counts
    for place, digit in enumerate(total):
        difference[2 * place] -= digit * digit
        for other in range(place + 1, len(total)):
            difference[place + other] -= 2 * digit * total[other]
    return _divide(_carry(difference), (counts * (counts - 1)).astype(np.float64), 2 * base)


def _digits(terms: _Terms, base: int, rows: int) -> list[Ints]:
    """The sum of the terms in digits of 26 bits and units of 2^base, the last one signed."""
    size = max(((exponent - base) // _BITS for exponent, _ in terms), default=0) + 5
    digits = [np.zeros(rows, dtype=np.int64) for _ in range(size)]
    for exponent, count in terms:
        place, shift = divmod(exponent - base, _BITS)
        digits[place] += (count & ((1 << (_BITS - shift)) - 1)) << shift
        rest = count >> (_BITS - shift)
        for step in (1, 2):
            digits[place + step] += rest & _DIGIT
            rest = rest >> _BITS
        digits[place + 3] += rest
    return _carry(digits)


def _carry(digits: list[Ints]) -> list[Ints]:
    """Makes all digits but the last less than 2^26 and not negative, and drops those that no row needs."""
    for place in range(len(digits) - 1):
        digits[place + 1] += digits[place] >> _BITS
        digits[place] &= _DIGIT
    while len(digits) > 1 and not (digits[-1] + (digits[-1] < 0)).any():
        last = digits[-2] + (digits[-1] << _BITS)
        if last.min(initial=0) < -_DIGIT:
            break
        digits[-2:] = [last]
    return digits


def _divide(digits: list[Ints], divisor: Floats, base: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The quotient of numbers in units of 2^base, and whether each is certainly rounded right."""
    total, error, slack = (np.zeros(len(divisor)) for _ in range(3))  # the number is total + error ± slack
    for place in range(len(digits) - 1, -1, -1):
        total, lost = two_sum(total, np.ldexp(digits[place].astype(np.float64), _BITS * place))
        error, lost = two_sum(error, lost)
        slack += np.abs(lost)
    quotient = total / divisor
    product, lost = two_product(quotient, divisor)
    rest = ((total - product) - lost + error) / divisor
    bound = np.abs(quotient) * 2.0**-98 + slack / divisor
    certain = quotient + (rest - bound) == quotient + (rest + bound)
    with np.errstate(over="ignore"):
        result = np.ldexp(quotient + rest, base)
    # A result below the normal doubles would be rounded a second time.
    return result, certain & ((result >= _SMALLEST_NORMAL) | (quotient == 0))


def two_product(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """The rounded product and its rounding error (Dekker's product), which must not overflow or underflow."""
    product = left * right
    left_high, right_high = _upper(left), _upper(right)
    left_low, right_low = left - left_high, right - right_high
    error = (left_high * right_high - product) + left_high * right_low + left_low * right_high
    return product, error + left_low * right_low


def _upper(values: Floats) -> Floats:
    """The upper 26 bits of each value (Veltkamp's splitting)."""
    scaled = values * 134217729.0
    upper: Floats = scaled - (scaled - values)
    return upper
