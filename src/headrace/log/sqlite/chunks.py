"""Chunks: groups of records in a topic's file, like Kafka's record batches.

One row of table `chunk` holds up to 1,000 records of one append as msgpack. Its key is the log partition and
the offset of its first record. Reading a million records of 220 bytes takes a fraction of the time of one row
per record, and a reader releases the interpreter's lock while SQLite reads a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from msgspec import Struct

from headrace.log.port import Batch, Headers

__all__ = ["SHIFT", "ChunkSlice", "decode", "encode", "join", "split"]

SHIFT = 48
"""A chunk's key is `log partition << SHIFT` plus the offset of its first record."""
CHUNK_RECORDS = 1_000
CHUNK_BYTES = 1 << 20

_Keys = list[bytes | None]
_Body = tuple[list[bytes], _Keys | None, list[dict[str, bytes] | None] | None]
_decoder = msgspec.msgpack.Decoder(_Body)


class ChunkSlice(Struct, frozen=True, gc=False):
    """Consecutive records of one chunk.

    Attributes:
        partition: their log partition.
        first: the offset of the first of them.
        arrived_at: microseconds since 1970.
        values, keys, headers: the records' parts; keys or headers are None if no record has any.
        size: bytes of the whole chunk.
    """

    partition: int
    first: int
    arrived_at: int
    values: list[bytes]
    keys: list[bytes | None] | None
    headers: list[dict[str, bytes] | None] | None
    size: int


def split(places: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Splits places into runs of one chunk each, limited by number and by bytes.

    Args:
        places: places of records in an append.
        sizes: bytes of every record of the append.
    """
    begin, size = 0, 0
    for at, place in enumerate(places):
        if at > begin and (at - begin == CHUNK_RECORDS or size + sizes[place] > CHUNK_BYTES):
            yield places[begin:at]
            begin, size = at, 0
        size += sizes[place]
    yield places[begin:]


def encode(
    values: Sequence[bytes],
    keys: Sequence[bytes | None],
    headers: Sequence[Headers | None],
    places: Sequence[int],
) -> bytes:
    """Encodes the body of a chunk with the records at these places."""
    chosen_keys = [keys[place] for place in places]
    chosen_headers = [headers[place] for place in places]
    return msgspec.msgpack.encode(
        (
            [values[place] for place in places],
            chosen_keys if any(key is not None for key in chosen_keys) else None,
            chosen_headers if any(chosen_headers) else None,
        )
    )


def decode(
    partition: int, first: int, arrived_at: int, body: bytes, begin: int, limit: int
) -> ChunkSlice | None:
    """Decodes at most `limit` records of a chunk, from place `begin` on; None if there are none.

    Raises:
        msgspec.DecodeError: the body is damaged.
    """
    values, keys, headers = _decoder.decode(body)
    end = min(len(values), begin + limit)
    if begin >= end:
        return None
    return ChunkSlice(
        partition=partition,
        first=first + begin,
        arrived_at=arrived_at,
        values=values[begin:end],
        keys=keys and keys[begin:end],
        headers=headers and headers[begin:end],
        size=len(body),
    )


def join(slices: Sequence[ChunkSlice], offsets: Mapping[int, int]) -> Batch:
    """Joins slices to one batch.

    Args:
        slices: the slices, in the order of their offsets within each log partition.
        offsets: the offsets that were read from.
    """
    lengths = np.array([len(part.values) for part in slices], np.int64)
    total = int(lengths.sum())
    begins = np.cumsum(lengths) - lengths
    first = np.array([part.first for part in slices], np.int64)
    values: list[bytes] = []
    keys: _Keys = []
    headers: list[Headers | None] = []
    next_offsets = dict(offsets)
    for part in slices:
        nothing = [None] * len(part.values)
        values += part.values
        keys += part.keys or nothing
        headers += part.headers or nothing
        next_offsets[part.partition] = part.first + len(part.values)
    return Batch(
        partitions=np.repeat(np.array([part.partition for part in slices], np.int32), lengths),
        offsets=np.arange(total, dtype=np.int64) + np.repeat(first - begins, lengths),
        arrived_at=np.repeat(np.array([part.arrived_at for part in slices], np.int64), lengths),
        values=values,
        keys=keys,
        headers=headers,
        next=next_offsets,
    )
