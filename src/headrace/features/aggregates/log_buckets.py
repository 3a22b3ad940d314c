"""Buckets of numbers whose width is in proportion to their size, with fixed boundaries.

Each power of two is divided into 64 buckets of equal width: a bucket is the sign, the exponent and the first
six binary digits of a double. A value differs from the middle of its bucket by at most 1/128 of itself (0.8 %);
below the normal doubles (2.2e-308) the buckets are as wide as the smallest of theirs.
It is the bucketing of DDSketch (Masson, Rim and Lee, 2019) without a logarithm, whose last bit differs between
libraries. Counts of fixed buckets add up in any order; a KLL sketch or a t-digest depends on it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bucket_of", "buckets_of", "middle_of", "middles_of"]

Ints = NDArray[np.int64]

_SHIFT = 52 - 6
_HALF = 1 << (_SHIFT - 1)


def bucket_of(value: float) -> int:
    """The bucket of a number: 0 for 0, negative for a negative number, in the order of the numbers."""
    if not value:
        return 0
    (bits,) = struct.unpack("<q", struct.pack("<d", abs(float(value))))
    bucket: int = (bits >> _SHIFT) + 1
    return bucket if value > 0 else -bucket


def buckets_of(values: NDArray[Any]) -> Ints:
    """The buckets of many numbers, int64 [n]."""
    numbers = values.astype(np.float64)
    buckets = (np.abs(numbers).view(np.int64) >> _SHIFT) + 1
    return np.sign(numbers).astype(np.int64) * buckets


def middle_of(bucket: int) -> float:
    """The middle of a bucket."""
    return float(middles_of(np.array([bucket], dtype=np.int64))[0])


def middles_of(buckets: Ints) -> NDArray[np.float64]:
    """The middles of many buckets, float64 [n]."""
    middles = (((np.abs(buckets) - 1) << _SHIFT) + _HALF).view(np.float64)
    return np.where(buckets == 0, 0.0, np.copysign(middles, buckets))
