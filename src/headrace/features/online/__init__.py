"""Online: the current feature values, by entity."""

from headrace.features.online.store import (
    LookupResult,
    OnlineStore,
    RowPosition,
    ServedPosition,
    StreamPosition,
    UnreadEvent,
    open,  # noqa: A004 (`online.open` is its name outside)
)

__all__ = [
    "LookupResult",
    "OnlineStore",
    "RowPosition",
    "ServedPosition",
    "StreamPosition",
    "UnreadEvent",
    "open",
]
