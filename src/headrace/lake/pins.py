"""Pins: Iceberg tags that keep a snapshot from expiring.

Each pin sets two tags: its own, and one named after the snapshot, on whose absence an expiry is
committed (lake/expiry.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyiceberg.table.refs import SnapshotRefType

from headrace.kernel.errors import Conflict
from headrace.lake import lease
from headrace.lake.expiry import KEEP
from headrace.lake.refs import update_refs

__all__ = ["forget_keeps", "pins_of", "set_pin", "take_pin"]

_TRIES = 50
Load = Callable[[], Any]


def pins_of(table: Any) -> dict[str, int]:
    """Pin → snapshot id, of a pyiceberg table."""
    return {
        name: ref.snapshot_id
        for name, ref in table.refs().items()
        if ref.snapshot_ref_type == SnapshotRefType.TAG and not name.startswith((KEEP, lease.TAG))
    }


def set_pin(catalog: Any, load: Load, name: str, snapshot: int) -> bool:
    """Sets a pin; False where the snapshot is not there. Raises Conflict as LakeTable.pin does."""
    for _ in range(_TRIES):
        table = load()
        if table.snapshot_by_id(snapshot) is None:
            return False
        if update_refs(catalog, table, set_tags={name: snapshot, f"{KEEP}{snapshot}": snapshot}, expect={}):
            return True
    raise _beaten(table)


def take_pin(catalog: Any, load: Load, name: str) -> None:
    """Takes a pin away, if it is there. Raises Conflict as LakeTable.unpin does."""
    for _ in range(_TRIES):
        table = load()
        pins = pins_of(table)
        if name not in pins:
            return
        gone = [name]
        keep = f"{KEEP}{pins[name]}"
        if list(pins.values()).count(pins[name]) == 1 and keep in table.refs():
            gone.append(keep)
        if update_refs(catalog, table, remove=tuple(gone), expect={name: pins[name]}):
            return
    raise _beaten(table)


def forget_keeps(catalog: Any, table: Any) -> None:
    """Takes away the second tags of pins that are gone; where somebody else commits, the next time."""
    pinned = set(pins_of(table).values())
    stale = {
        name: ref.snapshot_id
        for name, ref in table.refs().items()
        if name.startswith(KEEP) and ref.snapshot_id not in pinned
    }
    if stale:
        update_refs(catalog, table, remove=tuple(stale), expect=stale)


def _beaten(table: Any) -> Conflict:
    return Conflict(
        "other writers kept changing the table", where=f"table {table.name()[-1]}", remedy="Try again."
    )
