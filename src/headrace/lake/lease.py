"""The lease of a table's upkeep: one holder at a time, on whatever machine, kept in the table itself.

It is two tags. TAG is there while somebody holds the lease; the other's name says who, and until
when. Taking a free lease asserts that there is no TAG; renewing, giving back, and taking one whose
time is over assert that the other tag is as it was seen. So of two that try, the catalog refuses one.

A holder that hangs past its time and wakes up learns of it at its next renewal. What it does until
then does no harm: every step of upkeep is safe by itself (docs/decisions/0013-upkeep-lease.md).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

from headrace.kernel.errors import Conflict
from headrace.kernel.ids import new_id
from headrace.kernel.time import now_micros
from headrace.lake.refs import update_refs

__all__ = ["FIRST", "MARKED_SECONDS", "TAG", "Lease", "mark_first"]

TAG = "headrace-maintenance"
SECONDS = 300.0
# A mark of the lease's holder: other writers wait before their commits, until the time in its name.
FIRST = f"{TAG}-first-"
MARKED_SECONDS = 3.0
_TRIES = 50
_NAME = re.compile(rf"{TAG}-(\d+)-.+")


class Lease:
    """One holder's lease of a table that has a snapshot.

    Args:
        catalog: PyIceberg's.
        load: the table, fresh from the catalog.
    """

    def __init__(self, catalog: Any, load: Callable[[], Any]) -> None:
        self._catalog = catalog
        self._load = load
        self._holder = f"{re.sub('[^A-Za-z0-9]', '-', socket.gethostname())}-{os.getpid()}-{new_id()[-8:]}"
        self._tag = ""

    def take(self) -> bool:
        """Takes it, if it is free or its holder's time is over.

        Raises:
            Conflict: other writers kept changing the table.
        """
        for _ in range(_TRIES):
            table = self._load()
            refs = table.refs()
            held = _holder_tag(refs)
            if held is not None and _until(held) > now_micros() and TAG in refs:
                return False
            seen = held or TAG
            if self._moved(table, {seen: refs[seen].snapshot_id if seen in refs else None}):
                return True
        raise _beaten(table)

    def renew(self, *, now: bool = False) -> None:
        """Renews it when a third of its time is over, or `now`: its tags then stand at the head.

        Raises:
            Conflict: it is another's by now; or other writers kept changing the table.
        """
        if not now and _until(self._tag) - now_micros() > SECONDS * 1e6 * 2 / 3:
            return
        for _ in range(_TRIES):
            table, still = self._mine()
            if self._moved(table, still):
                return
        raise _beaten(table)

    def give_back(self, properties: Mapping[str, str]) -> None:
        """Gives it back and sets properties of the table, in one commit.

        Raises:
            Conflict: it is another's by now, and nothing was set; or other writers kept changing the table.
        """
        for _ in range(_TRIES):
            table, still = self._mine()
            ours = tuple(name for name in table.refs() if name.startswith(TAG))
            if update_refs(self._catalog, table, remove=ours, properties=properties, expect=still):
                return
        raise _beaten(table)

    def _mine(self) -> tuple[Any, dict[str, int]]:
        """The table, and the holder's tag as it must still be."""
        table = self._load()
        refs = table.refs()
        if self._tag not in refs:
            raise Conflict("another upkeep holds its lease", where=f"table {table.name()[-1]}")
        return table, {self._tag: refs[self._tag].snapshot_id}

    def _moved(self, table: Any, still: Mapping[str, int | None]) -> bool:
        """Puts this holder's tag, with a new time, in the place of what tags there are."""
        tag = f"{TAG}-{now_micros() + int(SECONDS * 1e6)}-{self._holder}"
        head = table.current_snapshot().snapshot_id
        gone = tuple(name for name in table.refs() if name.startswith(f"{TAG}-"))
        done = update_refs(self._catalog, table, set_tags={TAG: head, tag: head}, remove=gone, expect=still)
        if done:
            self._tag = tag
        return done


def mark_first(catalog: Any, load: Callable[[], Any]) -> None:
    """Asks other writers to give way to a commit of the lease's holder for MARKED_SECONDS.

    The mark goes when the lease is renewed or given back. Where other writers kept changing the table,
    there is none.
    """
    for _ in range(_TRIES):
        table = load()
        mark = f"{FIRST}{now_micros() + int(MARKED_SECONDS * 1e6)}"
        if update_refs(catalog, table, set_tags={mark: table.current_snapshot().snapshot_id}, expect={}):
            return


def _holder_tag(refs: Mapping[str, Any]) -> str | None:
    return max((name for name in refs if _NAME.fullmatch(name)), default=None)


def _until(tag: str) -> int:
    """Until when, in microseconds since 1970."""
    found = _NAME.fullmatch(tag)
    return int(found.group(1)) if found else 0


def _beaten(table: Any) -> Conflict:
    return Conflict(
        "other writers kept changing the table", where=f"table {table.name()[-1]}", remedy="Try again."
    )
