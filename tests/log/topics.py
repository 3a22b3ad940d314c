"""Reads whole topics, and sets their limits on a broker."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from tests.until import until

from headrace.log import Log

__all__ = ["read_all", "set_largest_batch"]


def read_all(events_log: Log, topic: str, limit: int = 1_000) -> dict[tuple[int, int], bytes]:
    """Every record by its position, read in batches of at most `limit`."""
    offsets = dict.fromkeys(range(events_log.partitions(topic)), 0)
    records: dict[tuple[int, int], bytes] = {}
    while len(batch := events_log.read(topic, offsets, limit)):
        assert len(batch) <= limit
        for partition, offset, value in zip(
            batch.partitions.tolist(), batch.offsets.tolist(), batch.values, strict=True
        ):
            assert (partition, offset) not in records
            records[partition, offset] = value
        offsets = batch.next
    assert not events_log.wait(topic, offsets, 0)
    return records


def set_largest_batch(url: str, topic: str, size: int) -> None:
    """Sets the largest batch of a topic, and waits until the broker reports it."""
    admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(30)

    def size_now() -> str:
        settings = admin.describe_configs([resource])[resource].result(30)
        return str(settings["max.message.bytes"].value)

    until(lambda: size_now() == str(size))
