"""debezium: writes a connector for Kafka Connect or for Debezium's embedded engine. Secrets are references."""

from __future__ import annotations

import json

from headrace.config.settings import Settings
from headrace.events.connector import VARIABLES, Connector, connectors
from headrace.export.target import Export, Option, Target
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError
from headrace.projects.project import load_project

__all__ = ["TARGET", "connect_body", "engine_properties"]

_JSON = "org.apache.kafka.connect.json.JsonConverter"
_ADDRESS = {setting: f"${{env:{variable}}}" for setting, variable in VARIABLES.items()}


def _write(settings: Settings, *, prefix: str | None, engine: bool) -> Export:
    contracts = load_project(settings, without=("feast",)).contracts.values()
    available = connectors(settings.project, contracts)
    chosen = [connector for connector in available if prefix in (None, connector.prefix)]
    if len(chosen) != 1:
        raise CallError(
            "the project's tables have topics of several prefixes, and each prefix is a connector"
            if prefix is None
            else f"no topic has the prefix {prefix!r}",
            remedy=f"Choose one: --prefix {' or '.join(connector.prefix for connector in available)}.",
        )
    (connector,) = chosen
    text = engine_properties(connector) if engine else json.dumps(connect_body(connector), indent=1) + "\n"
    return Export(text, f"a connector for {plural(len(connector.topics), 'table')}")


TARGET = Target(
    name="debezium",
    help="Write the connector for Debezium.\n\n"
    "It puts the changes of the tables declared by @changes on their topics. The result is JSON to POST to"
    " Kafka Connect.",
    example="headrace export debezium"
    " | curl -H 'Content-Type: application/json' -d @- localhost:8083/connectors",
    write=_write,
    options=(
        Option("prefix", "The prefix of the topics, where the project has several.", "NAME"),
        Option("engine", "Write properties for Debezium's embedded engine instead."),
    ),
)


def connect_body(connector: Connector) -> dict[str, object]:
    """The request body for Kafka Connect. The database's address stays in the environment of the worker, which
    needs `config.providers=env` with Kafka's EnvVarConfigProvider."""
    converters = {
        f"{side}.converter{suffix}": value
        for side in ("key", "value")
        for suffix, value in (("", _JSON), (".schemas.enable", "false"))
    }
    topics = {
        "topic.creation.default.partitions": str(connector.partitions),
        "topic.creation.default.replication.factor": "-1",
        "topic.creation.default.message.timestamp.type": "LogAppendTime",
    }
    return {"name": connector.name, "config": {**connector.settings, **_ADDRESS, **converters, **topics}}


def engine_properties(connector: Connector) -> str:
    """A Java properties file for the embedded engine. It does not set where the engine stores its offsets."""
    lines = {"name": connector.name, **connector.settings, **_ADDRESS}
    return "".join(f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in lines.items())
