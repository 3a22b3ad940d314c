"""The numbers of partitions, by Iceberg's transforms ("Partition Transforms" in its table specification).

An hour, day or month is counted from 1970; a bucket is the 32-bit Murmur3 hash of the value, modulo the number
of buckets. A null has no number.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
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
    """The bucket of each value, as int32. Each different value is hashed once.

    Raises:
        TypeError: values of this type cannot be hashed.
    """
    import mmh3

    encoded: Any = pc.dictionary_encode(column)
    values = encoded.dictionary
    if pa.types.is_date(values.type):
        values = values.cast(pa.int32())
    if pa.types.is_integer(values.type):
        texts = [value.to_bytes(8, "little", signed=True) for value in values.cast(pa.int64()).to_pylist()]
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        texts = [value.encode() for value in values.to_pylist()]
    elif len(values) == 0:
        texts = []
    else:
        raise TypeError(f"a value of type {values.type} cannot be a key")
    hashes = np.fromiter((mmh3.hash(text, signed=False) for text in texts), np.int64, len(texts))
    numbers = pa.array(((hashes & 0x7FFFFFFF) % buckets).astype(np.int32))
    return pc.take(numbers, encoded.indices)
