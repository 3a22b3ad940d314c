"""The connectors of Debezium's that put the changes of a project's database tables on its topics.

The settings leave nothing of a value to guess: numerics and times are text, and truncates are sent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.declare.event import Contract
from headrace.kernel.errors import ProjectError

__all__ = ["VARIABLES", "Connector", "connectors"]

VARIABLES = {
    "database.hostname": "PGHOST",
    "database.port": "PGPORT",
    "database.user": "PGUSER",
    "database.password": "PGPASSWORD",
    "database.dbname": "PGDATABASE",
}
"""Setting → the environment variable that holds it, as PostgreSQL's own programs name it."""

_PLACE = re.compile(r"[^a-z0-9_]")


@dataclass(frozen=True)
class Connector:
    """One connector: the tables whose topics share a prefix, which come from one database.

    Attributes:
        name: its name; also its replication slot's and its publication's.
        prefix: what its topics begin with.
        settings: what Debezium is told, the database's address aside.
        topics: the topics that it writes.
        partitions: how many log partitions a topic is made with.
    """

    name: str
    prefix: str
    settings: Mapping[str, str]
    topics: tuple[str, ...]
    partitions: int


def connectors(project: str, contracts: Iterable[Contract]) -> list[Connector]:
    """The connectors of a project's contracts under @changes, in order of name.

    Raises:
        ProjectError: there is no such contract.
    """
    by_prefix: dict[str, list[Contract]] = defaultdict(list)
    for contract in contracts:
        if contract.row_key:
            by_prefix[contract.topic.rsplit(".", 2)[0]].append(contract)
    if not by_prefix:
        raise ProjectError(
            "the project declares no table whose changes are captured",
            remedy='Declare one: @changes(topic="PREFIX.SCHEMA.TABLE", key=["id"]).',
        )
    return [_connector(project, prefix, some) for prefix, some in sorted(by_prefix.items())]


def _connector(project: str, prefix: str, contracts: list[Contract]) -> Connector:
    # A replication slot's name: letters, digits and _, at most 63.
    name = _PLACE.sub("_", f"headrace_{project}_{prefix}".lower())[:63]
    tables = sorted(contract.topic.removeprefix(f"{prefix}.") for contract in contracts)
    settings = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "topic.prefix": prefix,
        "table.include.list": ",".join(re.escape(table) for table in tables),
        "slot.name": name,
        "publication.name": name,
        "publication.autocreate.mode": "filtered",
        "snapshot.mode": "initial",
        "skipped.operations": "none",  # truncates, too
        "tombstones.on.delete": "false",  # a changelog is never compacted
        "decimal.handling.mode": "string",
        "time.precision.mode": "isostring",
        "interval.handling.mode": "string",
        "hstore.handling.mode": "json",
        "poll.interval.ms": "100",
        "heartbeat.interval.ms": "10000",  # so that the slot moves on where these tables rest
    }
    topics = tuple(f"{prefix}.{table}" for table in tables)
    return Connector(name, prefix, settings, topics, max(contract.partitions for contract in contracts))
