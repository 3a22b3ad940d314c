"""The log partition of a key, by Kafka's rule, so that a topic can move between the logs.

murmur2 of the key with Kafka's seed, its sign bit cleared, modulo the number of partitions
(org.apache.kafka.clients.producer.internals.BuiltInPartitioner; librdkafka's `murmur2_random`).
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["murmur2", "partition_of"]

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 of `data`, as an unsigned 32-bit number."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = (int.from_bytes(data[at : at + 4], "little") * _M) & _MASK
        k = ((k ^ (k >> 24)) * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    if whole < length:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * _M) & _MASK
    h = ((h ^ (h >> 13)) * _M) & _MASK
    return h ^ (h >> 15)


@lru_cache(maxsize=1 << 16)
def partition_of(key: bytes, partitions: int) -> int:
    """The log partition, 0 to partitions - 1, of a record with this key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
