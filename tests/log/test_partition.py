"""Log partitions of keys: Kafka's own rule."""

from __future__ import annotations

import pytest

from headrace.log.partition import murmur2, partition_of


# From Kafka's own org.apache.kafka.common.utils.UtilsTest, as signed numbers there.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, expected: int) -> None:
    assert murmur2(data) == expected % 2**32


def test_every_partition_is_used() -> None:
    assert {partition_of(b"%d" % n, 5) for n in range(200)} == {0, 1, 2, 3, 4}
