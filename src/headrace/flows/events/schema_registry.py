"""The schema registry that a profile names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.config.settings import Settings

if TYPE_CHECKING:
    from headrace.events.formats.schema_registry import SchemaRegistry

__all__ = ["open_schema_registry"]


def open_schema_registry(settings: Settings) -> SchemaRegistry | None:
    """The profile's schema registry, if it names one."""
    if not settings.formats.schema_registry:
        return None
    from headrace.events.formats.schema_registry import SchemaRegistry

    return SchemaRegistry(settings.formats.schema_registry)
