"""A compacted topic on a real broker accepts no record without a key: that is a refusal, not an outage."""

from __future__ import annotations

import pytest
from services.kafka import Broker

from headrace.kernel.errors import RecordsRefused, TooLarge
from headrace.kernel.ids import new_id
from headrace.log.kafka.log import KafkaLog


def test_record_without_a_key_is_refused_and_the_log_goes_on(broker: Broker) -> None:
    topic = f"compacted-{new_id()}"
    log = KafkaLog(broker.url.removeprefix("kafka://"))
    log._topics.create_compacted(topic, 1)
    assert log.append(topic, [b"a"], [b"1"]) == [(0, 0)]
    with pytest.raises(RecordsRefused, match=r"compacted .* without a key: 1 of 2 have none") as error:
        log.append(topic, [b"b", b"c"], [b"2", None])
    assert (error.value.places, error.value.retryable) == ((1,), False)
    assert not isinstance(error.value, TooLarge)
    assert error.value.remedy
    ((partition, _),) = log.append(topic, [b"d"], [b"3"])
    assert partition == 0
    assert log.read(topic, {0: 0}, 10).values == [b"a", b"d"]
    log.close()
