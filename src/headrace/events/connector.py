"""The Debezium connectors that write the changes of a project's database tables to its topics.

With their settings no value is ambiguous: decimals and times are written as text, and truncates are sent.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import attrs

from headrace.declare.event import Contract
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError

__all__ = ["VARIABLES", "Connector", "connectors"]

VARIABLES = {
    "database.hostname": "PGHOST",
    "database.port": "PGPORT",
    "database.user": "PGUSER",
    "database.password": "PGPASSWORD",
    "database.dbname": "PGDATABASE",
}
"""Setting → the environment variable that holds it, by the names that PostgreSQL's programs use."""

_SLOT = re.compile(r"[a-z0-9_]{1,63}")
_INVALID = re.compile(r"[^a-z0-9_]")


@attrs.frozen
class Connector:
    """One connector. It captures the tables of one database, whose topics share a prefix.

    Attributes:
        name: its name, also that of its replication slot and publication.
        prefix: the first part of its topics' names.
        settings: the settings for Debezium, without the database's address.
        topics: the topics that it writes.
        partitions: the number of log partitions that a topic is created with.
    """

    name: str
    prefix: str
    settings: Mapping[str, str]
    topics: tuple[str, ...]
    partitions: int


def connectors(project: str, contracts: Iterable[Contract]) -> list[Connector]:
    """The connectors for a project's contracts under @changes, sorted by name.

    Raises:
        ProjectError: the project has no such contract.
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
    return [_connector(project, prefix, group) for prefix, group in sorted(by_prefix.items())]


def _connector(project: str, prefix: str, contracts: list[Contract]) -> Connector:
    name = _name_of(project, prefix)
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
        "skipped.operations": "none",  # by default truncates are skipped
        "tombstones.on.delete": "false",  # a changelog is never compacted
        "decimal.handling.mode": "string",
        "time.precision.mode": "isostring",
        "interval.handling.mode": "string",
        "hstore.handling.mode": "json",
        "poll.interval.ms": "100",
        "heartbeat.interval.ms": "10000",  # so that the slot advances while these tables do not change
    }
    topics = tuple(f"{prefix}.{table}" for table in tables)
    return Connector(name, prefix, settings, topics, max(contract.partitions for contract in contracts))


def _name_of(project: str, prefix: str) -> str:
    """The connector's name. A replication slot's has lower-case letters, digits and _, at most 63 of them.

    Where another project and prefix would have the same name, it ends with a digest: of two connectors with one
    slot, each would lose the changes that the other one got.
    """
    name = f"headrace_{project}_{prefix}"
    if "_" not in project and _SLOT.fullmatch(name):
        return name
    return f"{_INVALID.sub('_', name.lower())[:50]}_{short_digest(f'{project} {prefix}')[:12]}"
