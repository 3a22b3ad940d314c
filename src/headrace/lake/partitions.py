"""The numbers of partitions, by Iceberg's transforms ("Partition Transforms" in its table specification).

An hour, day or month is counted from 1970; a bucket is the 32-bit Murmur3 hash of the value, modulo the number
of buckets. A null has no number.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["bucket_count", "bucket_numbers", "partition_numbers"]

_HOUR, _DAY = 3_600_000_000, 86_400_000_000  # microseconds
_BUCKET = re.compile(r"bucket\[(\d+)\]")


def bucket_count(transform: str) -> int | None:
    """The number of buckets of a transform such as `bucket[64]`; None for another transform."""
    match = _BUCKET.fullmatch(transform)
    return int(match.group(1)) if match else None


def partition_numbers(column: pa.Array[Any], transform: str) -> pa.Array[Any]:
    """The number of the partition of each value, as int32.

    Args:
        column: dates, instants in microseconds, or for a bucket also whole numbers and texts.
        transform: `hour`, `day`, `month` or `bucket[N]`.
    """
    buckets = bucket_count(transform)
    if buckets is not None:
        return bucket_numbers(column, buckets)
    is_date = pa.types.is_date(column.type)
    filled: Any = pc.fill_null(column.cast(pa.int32() if is_date else pa.int64()), 0)  # type: ignore[type-var]
    numbers: Any = np.asarray(filled).astype(np.int64)
    if not is_date:
        numbers //= _HOUR if transform == "hour" else _DAY
    if transform == "month":
        numbers = numbers.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    result: pa.Array[Any] = pa.array(numbers.astype(np.int32), mask=np.asarray(column.is_null()))
    return result


def bucket_numbers(column: pa.Array[Any], buckets: int) -> pa.Array[Any]:
    """The bucket of each value, as int32.

    Raises:
        TypeError: values of this type cannot be hashed.
    """
    if pa.types.is_date(column.type):
        column = column.cast(pa.int32())
    if pa.types.is_integer(column.type):
        filled: Any = pc.fill_null(column.cast(pa.int64()), 0)  # type: ignore[type-var]
        hashes = _hash_integers(np.asarray(filled))
        return pa.array(_modulo(hashes, buckets), mask=np.asarray(column.is_null()))
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TypeError(f"a value of type {column.type} cannot be a key")
    import mmh3

    encoded: Any = pc.dictionary_encode(column)  # each different text is hashed once
    texts = encoded.dictionary.to_pylist()
    hashes = np.fromiter((mmh3.hash(text.encode(), signed=False) for text in texts), np.uint32, len(texts))
    numbers: Any = pa.array(_modulo(hashes, buckets))
    result: pa.Array[Any] = pc.take(numbers, encoded.indices)
    return result


def _modulo(hashes: npt.NDArray[np.uint32], buckets: int) -> npt.NDArray[np.int32]:
    return ((hashes & np.uint32(0x7FFFFFFF)) % np.uint32(buckets)).astype(np.int32)


def _hash_integers(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The 32-bit Murmur3 hash, with seed 0, of the 8 bytes of each number."""
    words = np.ascontiguousarray(values, "<i8").view("<u4").reshape(-1, 2)
    hashes = np.zeros(len(values), np.uint32)
    for word in (words[:, 0], words[:, 1]):
        mixed = _rotate(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        hashes = _rotate(hashes ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    hashes ^= np.uint32(8)
    hashes = (hashes ^ hashes >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    hashes = (hashes ^ hashes >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return hashes ^ hashes >> np.uint32(16)


def _rotate(values: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    return values << np.uint32(bits) | values >> np.uint32(32 - bits)
