"""Online: the current feature values of each entity."""

from headrace.features.online.store import (
    LookupResult,
    OnlineStore,
    RowPosition,
    ServedPosition,
    StoreUnavailable,
    StreamPosition,
    ViewCost,
    filled_views,
    open,  # noqa: A004
)

__all__ = [
    "LookupResult",
    "OnlineStore",
    "RowPosition",
    "ServedPosition",
    "StoreUnavailable",
    "StreamPosition",
    "ViewCost",
    "filled_views",
    "open",
]
