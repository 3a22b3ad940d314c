"""Formats: the encodings of events. Each format is one file and one line in FORMATS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.declare.event import Contract
from headrace.events.formats.avro import Avro
from headrace.events.formats.connect import Connect
from headrace.events.formats.debezium import Debezium
from headrace.events.formats.plain_json import PlainJson
from headrace.events.formats.port import DECODE_ERRORS, Format, NoEvent
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["DECODE_ERRORS", "FORMATS", "Format", "NoEvent", "find", "open"]

FORMATS: dict[str, type[Format]] = {
    "avro": Avro,
    "connect": Connect,
    "debezium": Debezium,
    "json": PlainJson,
}


def find(contract: Contract) -> type[Format]:
    """Find the format that a contract names.

    Raises:
        ProjectError: no format has this name.
    """
    if contract.format not in FORMATS:
        raise ProjectError(
            f"format={contract.format!r} is not a valid format",
            where=str(contract.place),
            remedy=f"Use one of {', '.join(FORMATS)}.",
        )
    return FORMATS[contract.format]


def open(contract: Contract, schema_registry: SchemaRegistry | None = None) -> Format:  # noqa: A001
    """Open the format of a contract.

    Args:
        contract: the contract of the topic.
        schema_registry: holds the schemas that the events name; None: the profile names no registry.

    Raises:
        ProjectError: the format does not exist, or it needs a schema registry and has none.
        Unavailable: a package that the format needs is not installed.
    """
    return find(contract)(contract, schema_registry)
