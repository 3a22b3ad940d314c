"""Sums of floats that do not depend on the order in which they are added.

A window's sum is taken offline as a difference of prefix sums and online from tiles. In plain floats
the two differ in the last digits, and prefix sums over a long table lose far more. Here every value
is cut into whole multiples of a few powers of two, and whole numbers add up exactly: the result is
the true sum, rounded once. `math.fsum` over tiles gives the same bits. (Both hold as long as a sum
needs no more than 106 bits from its first to its last; beyond that the error is below 2^-100 of the
largest value.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ExactSums", "Parts", "exact_sums", "merge_parts", "range_sums"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Parts = tuple[float, float]

_MOST_LIMBS = 4
_SMALLEST = -1074  # every finite double is a multiple of 2^-1074
_LOW = np.int64((1 << 31) - 1)


class ExactSums(NamedTuple):
    """Prefix sums of n floats: limb k counts multiples of 2^exponents[k]; each is int64 [n + 1]."""

    exponents: list[int]
    limbs: list[Ints]


def exact_sums(values: Floats) -> ExactSums:
    """The prefix sums of finite floats [n], n < 2^40."""
    exponents: list[int] = []
    limbs: list[Ints] = []
    rest = values
    largest = float(np.abs(values).max()) if len(values) else 0.0
    # n values below 2^bits add up below 2^62.
    bits = 62 - len(values).bit_length()
    exponent = math.frexp(largest)[1]
    while largest and len(limbs) < _MOST_LIMBS:
        exponent = max(exponent - bits, _SMALLEST)
        # Scaling by a power of two is exact.
        counts = np.rint(np.ldexp(rest, -exponent))
        limbs.append(_prefix(counts.astype(np.int64)))
        exponents.append(exponent)
        rest = rest - np.ldexp(counts, exponent)
        if exponent == _SMALLEST or not rest.any():
            break
    return ExactSums(exponents, limbs)


def range_sums(sums: ExactSums, low: Ints, high: Ints) -> Floats:
    """The sum over each [low, high), float64 [m], correctly rounded."""
    total = np.zeros(len(low))
    error = np.zeros(len(low))
    for exponent, limb in zip(sums.exponents, sums.limbs, strict=True):
        count = limb[high] - limb[low]
        for part in (count & ~_LOW, count & _LOW):
            term = np.ldexp(part.astype(np.float64), exponent)
            # Knuth's TwoSum: total + term, and what its rounding lost.
            grown = total + term
            shadow = grown - total
            error += (total - (grown - shadow)) + (term - shadow)
            total = grown
    return total + error


def merge_parts(parts: list[float]) -> Parts:
    """The sum of all these floats as a pair (sum, what its rounding lost)."""
    high = math.fsum(parts)
    return high, math.fsum([*parts, -high])


def _prefix(counts: Ints) -> Ints:
    out = np.empty(len(counts) + 1, dtype=np.int64)
    out[0] = 0
    np.cumsum(counts, out=out[1:])
    return out
