"""Formats: how the raw bytes of an event hold its fields. One file a format; `open` is the only wiring.

A format says nothing of what is right: it makes a struct of bytes, and the error it raises where it cannot
is what the event is refused for (headrace.events.verdicts.decode).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.declare.event import Contract
from headrace.events.formats.plain import Plain
from headrace.events.formats.port import REFUSES, Format, Nothing
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["REFUSES", "Format", "Nothing", "open"]


def open(contract: Contract, schema_registry: SchemaRegistry | None = None) -> Format:  # noqa: A001
    """The format of a contract.

    Args:
        contract: whose.
        schema_registry: where a format finds the schemas that its events name.

    Raises:
        ProjectError: the contract names a format that there is not, or one that needs a registry.
        Unavailable: what the format needs is not installed.
    """
    if contract.format == "json":
        return Plain()
    if contract.format == "connect":
        from headrace.events.formats.connect import Connect

        return Connect()
    if contract.format == "debezium":
        from headrace.events.formats.debezium import Debezium

        return Debezium(contract)
    if contract.format == "avro":
        from headrace.events.formats.avro import Avro

        if schema_registry is None:
            raise ProjectError(
                f"topic {contract.topic!r} is written in Avro, and the profile names no schema registry",
                where=str(contract.place),
                remedy="Set `schema_registry` in the profile of headrace.toml, or HEADRACE_SCHEMA_REGISTRY.",
            )
        return Avro(schema_registry)
    raise ProjectError(
        f"there is no format {contract.format!r}",
        where=str(contract.place),
        remedy="There are json, connect, avro and debezium.",
    )
