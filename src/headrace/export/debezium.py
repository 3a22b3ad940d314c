"""debezium: a connector for Kafka Connect, or for Debezium's embedded engine. Secrets are references."""

from __future__ import annotations

from headrace.events.connector import VARIABLES, Connector

__all__ = ["connect_body", "engine_properties"]

_JSON = "org.apache.kafka.connect.json.JsonConverter"
_ADDRESS = {setting: f"${{env:{variable}}}" for setting, variable in VARIABLES.items()}


def connect_body(connector: Connector) -> dict[str, object]:
    """What is POSTed to Kafka Connect. The database's address stays in the environment of the worker, which
    needs `config.providers=env` with Kafka's EnvVarConfigProvider."""
    format_ = {
        f"{side}.converter{more}": value
        for side in ("key", "value")
        for more, value in (("", _JSON), (".schemas.enable", "false"))
    }
    topics = {
        "topic.creation.default.partitions": str(connector.partitions),
        "topic.creation.default.replication.factor": "-1",
        "topic.creation.default.message.timestamp.type": "LogAppendTime",
    }
    return {"name": connector.name, "config": {**connector.settings, **_ADDRESS, **format_, **topics}}


def engine_properties(connector: Connector) -> str:
    """A Java properties file for the engine; where it keeps its offsets is for whoever runs it to say."""
    lines = {"name": connector.name, **connector.settings, **_ADDRESS}
    return "".join(f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in lines.items())
