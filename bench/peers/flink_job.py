"""The peer: the shop's contract judged by PyFlink, from one Kafka topic into two, exactly once.

    python flink_job.py CONNECTOR_JAR BROKERS TOPIC VALID INVALID CHECKPOINTS

Runs until the topic's end as of its start. It is as fast as PyFlink lets it be: the same decoder as ours
(msgspec), embedded Python (thread mode), values as bytes, and no search for duplicates, which would cost
it a keyed state.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from pyflink.common import Configuration, Types
from pyflink.common.serialization import SimpleStringSchema
from pyflink.common.watermark_strategy import WatermarkStrategy
from pyflink.datastream import OutputTag, ProcessFunction, StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)

INVALID = OutputTag("invalid", Types.STRING())


class Judge(ProcessFunction):
    """Good events go on as they came, refused ones with their reason to the side."""

    def open(self, runtime_context: Any) -> None:  # noqa: ARG002  Flink names the arguments
        # The shop's contract, as in examples/shop/shop/events.py: this environment has no Headrace. Made
        # here, since Flink carries functions by pickles, and a struct's class does not go into one.
        fields = [
            ("event_time", str), ("event_type", Literal["view", "cart", "purchase", "remove_from_cart"]),
            ("product_id", int), ("category_id", int), ("user_id", int),
            ("price", Annotated[float, Meta(gt=0)]),
            ("user_session", str), ("category_code", str | None, None), ("brand", str | None, None),
        ]  # fmt: skip
        struct = msgspec.defstruct("UserBehaviour", fields)
        self._decode = msgspec.json.Decoder(struct, strict=False).decode

    def process_element(self, value: str, ctx: Any) -> Iterator[Any]:  # noqa: ARG002
        try:
            self._decode(value)
        except msgspec.MsgspecError as error:
            refused = {"valid": False, "error_type": type(error).__name__, "error_message": str(error),
                       "processed_at": time.time(), "raw": value}  # fmt: skip
            yield INVALID, json.dumps(refused)
        else:
            yield value


def main(jar: str, brokers: str, topic: str, valid: str, invalid: str, checkpoints: str) -> None:
    """Builds the job and runs it to its end."""
    settings = Configuration()
    for name, value in {
        "pipeline.jars": f"file://{jar}", "rest.port": "0", "python.execution-mode": "thread",
        "execution.checkpointing.interval": "1 s", "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": f"file://{checkpoints}", "restart-strategy.type": "none",
        "python.executable": sys.executable, "python.client.executable": sys.executable,
        "pipeline.object-reuse": "true",
    }.items():  # fmt: skip
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
    judged = read.process(Judge(), Types.STRING())
    judged.sink_to(_sink(brokers, valid))
    judged.get_side_output(INVALID).sink_to(_sink(brokers, invalid))
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
    main(*sys.argv[1:7])
