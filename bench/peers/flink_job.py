"""The peer: the shop's contract judged by PyFlink, from one Kafka topic into two, exactly once.

    python flink_job.py CONNECTOR_JAR BROKERS TOPIC VALID INVALID CHECKPOINTS MODE

Runs until the end that the topic had at its start. It gives the verdicts of the contract: fields and their
types, the spellings of the time, times after the arrival, and duplicates of an identity within a day, which
need keyed state. It is as fast as these verdicts allow: Headrace's decoder (msgspec), state in memory, one pass
for the event and one for its duplicates.

MODE is Flink's `python.execution-mode`: "process", which is its default, or "thread", which runs Python
embedded in the JVM.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from pyflink.common import Configuration, Time, Types
from pyflink.common.serialization import SimpleStringSchema
from pyflink.common.watermark_strategy import WatermarkStrategy
from pyflink.datastream import (
    KeyedProcessFunction,
    OutputTag,
    ProcessFunction,
    StreamExecutionEnvironment,
)
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.state import StateTtlConfig, ValueStateDescriptor

INVALID = OutputTag("invalid", Types.STRING())
FUTURE = 300_000  # milliseconds by which an event may be later than its arrival
WITHIN = 86_400_000  # milliseconds between two events of one identity, of which the second is a duplicate


class Judge(ProcessFunction):
    """Emits good events with their identity and time, and refused ones with their reason to the side output."""

    def open(self, runtime_context: Any) -> None:  # noqa: ARG002  Flink's signature
        # The shop's contract (examples/shop/shop/events.py): Headrace is not installed in this environment.
        # The struct is defined here because Flink pickles functions, and a struct's class cannot be pickled.
        fields = [
            ("event_time", str),
            ("event_type", Literal["view", "cart", "purchase", "remove_from_cart"]),
            ("product_id", int),
            ("category_id", int),
            ("user_id", int),
            ("price", Annotated[float, Meta(gt=0)]),
            ("user_session", str),
            ("category_code", str | None, None),
            ("brand", str | None, None),
        ]
        struct = msgspec.defstruct("UserBehaviour", fields)
        self._decode = msgspec.json.Decoder(struct, strict=False).decode

    def process_element(self, value: str, ctx: Any) -> Iterator[Any]:
        try:
            event = self._decode(value)
            when = _millis(event.event_time)
            if when > ctx.timestamp() + FUTURE:
                raise ValueError(f"{event.event_time} is too far after its arrival")
        except (msgspec.MsgspecError, ValueError) as error:
            yield INVALID, _encode_refusal(type(error).__name__, str(error), value)
        else:
            identity = f"{event.user_session} {event.event_time} {event.event_type} {event.product_id}"
            yield identity, when, value


class Admit(KeyedProcessFunction):
    """Emits an event unless one of the same identity was admitted within a day of it."""

    def open(self, runtime_context: Any) -> None:
        admitted = ValueStateDescriptor("admitted", Types.LONG())
        admitted.enable_time_to_live(StateTtlConfig.new_builder(Time.milliseconds(WITHIN)).build())
        self._admitted = runtime_context.get_state(admitted)

    def process_element(self, value: tuple[str, int, str], ctx: Any) -> Iterator[Any]:  # noqa: ARG002
        _, when, raw = value
        before = self._admitted.value()
        if before is not None and abs(when - before) <= WITHIN:
            yield INVALID, _encode_refusal("duplicate", "an event of the same identity was admitted", raw)
        else:
            self._admitted.update(when)
            yield raw


def _millis(text: str) -> int:
    """An RFC 3339 time, or one as the REES46 data spell it, in milliseconds since 1970."""
    if text.endswith(" UTC"):
        return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC).timestamp() * 1000)
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError(f"{text} has no zone")
    return int(parsed.timestamp() * 1000)


def _encode_refusal(kind: str, message: str, raw: str) -> str:
    refused = {
        "valid": False,
        "error_type": kind,
        "error_message": message,
        "processed_at": time.time(),
        "raw": raw,
    }
    return json.dumps(refused)


def main(jar: str, brokers: str, topic: str, valid: str, invalid: str, checkpoints: str, mode: str) -> None:
    """Builds the job and runs it to its end."""
    settings = Configuration()
    for name, value in {
        "pipeline.jars": f"file://{jar}",
        "rest.port": "0",
        "python.execution-mode": mode,
        "execution.checkpointing.interval": "1 s",
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": f"file://{checkpoints}",
        "restart-strategy.type": "none",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "pipeline.object-reuse": "true",
    }.items():
        settings.set_string(name, value)
    environment = StreamExecutionEnvironment.get_execution_environment(settings)
    environment.set_parallelism(2)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(brokers)
        .set_topics(topic)
        .set_group_id(f"flink-{topic}")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_bounded(KafkaOffsetsInitializer.latest())
        .set_property("isolation.level", "read_committed")
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    read = environment.from_source(source, WatermarkStrategy.no_watermarks(), "events")
    judged = read.process(Judge(), Types.TUPLE([Types.STRING(), Types.LONG(), Types.STRING()]))
    admitted = judged.key_by(lambda event: event[0], Types.STRING()).process(Admit(), Types.STRING())
    admitted.sink_to(_sink(brokers, valid))
    refused = judged.get_side_output(INVALID).union(admitted.get_side_output(INVALID))
    refused.sink_to(_sink(brokers, invalid))
    environment.execute("judge")


def _sink(brokers: str, topic: str) -> KafkaSink:
    schema = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(topic)
        .set_value_serialization_schema(SimpleStringSchema())
        .build()
    )
    return (
        KafkaSink.builder()
        .set_bootstrap_servers(brokers)
        .set_record_serializer(schema)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix(f"judge-{topic}")
        .set_property("transaction.timeout.ms", "600000")
        .build()
    )


if __name__ == "__main__":
    main(*sys.argv[1:8])
