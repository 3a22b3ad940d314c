"""The lease of a table's maintenance: one holder at a time on all machines, stored in the table itself.

The lease consists of two tags. LEASE exists while the lease is held. The name of the other tag contains the
holder and the end of the lease. Taking a free lease asserts that LEASE does not exist. Renewing, releasing, and
taking an expired lease assert that the other tag has not changed. So if two processes try at once, the catalog
refuses one.

A holder whose lease has expired notices it at its next renewal. Its work until then does no harm: every step of
maintenance is safe by itself (docs/decisions/0013-maintenance-lease.md).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from headrace.kernel.errors import Conflict
from headrace.kernel.ids import new_id
from headrace.kernel.time import now_micros
from headrace.lake.refs import TRIES, too_many_tries, update_refs
from headrace.lake.snapshot import newest_snapshot
from headrace.lake.tag_names import LEASE

__all__ = ["FIRST", "MARKED_SECONDS", "Lease", "mark_first"]

SECONDS = 300.0
# A mark that the lease's holder sets: other writers wait before their commits, until the time in its name.
FIRST = f"{LEASE}-first-"
MARKED_SECONDS = 3.0
_NAME = re.compile(rf"{LEASE}-(\d+)-.+")


class Lease:
    """One holder's lease of a table that has a snapshot.

    Args:
        catalog: PyIceberg's catalog.
        load: loads the table from the catalog.
    """

    def __init__(self, catalog: Catalog, load: Callable[[], Table]) -> None:
        self._catalog = catalog
        self._load = load
        self._holder = f"{re.sub('[^A-Za-z0-9]', '-', socket.gethostname())}-{os.getpid()}-{new_id()[-8:]}"
        self._tag = ""

    def take(self) -> bool:
        """Takes the lease if it is free or has expired; returns whether it was taken.

        Raises:
            Conflict: other writers kept changing the table.
        """
        for _ in range(TRIES):
            table = self._load()
            refs = table.refs()
            holder = _holder_tag(refs)
            # A lease that ends later than it can was taken by a clock that was ahead: it counts as expired.
            left = 0 if holder is None else _until(holder) - now_micros()
            if 0 < left < 2 * SECONDS * 1e6 and LEASE in refs:
                return False
            seen = holder or LEASE
            if self._set_tag(table, {seen: refs[seen].snapshot_id if seen in refs else None}):
                return True
        raise too_many_tries(table)

    def renew(self, *, now: bool = False) -> None:
        """Renews the lease if a third of its time is over, or `now`.

        Its tags then point to the newest snapshot.

        Raises:
            Conflict: another holder has taken the lease, or other writers kept changing the table.
        """
        if not now and _until(self._tag) - now_micros() > SECONDS * 1e6 * 2 / 3:
            return
        for _ in range(TRIES):
            table, expect = self._load_held()
            if self._set_tag(table, expect):
                return
        raise too_many_tries(table)

    def release(self, properties: Mapping[str, str]) -> None:
        """Releases the lease and sets properties of the table, in one commit.

        Raises:
            Conflict: another holder has taken the lease, or other writers kept changing the table; nothing was
                set.
        """
        for _ in range(TRIES):
            table, expect = self._load_held()
            tags = tuple(name for name in table.refs() if name.startswith(LEASE))
            if update_refs(self._catalog, table, remove=tags, properties=properties, expect=expect):
                return
        raise too_many_tries(table)

    def _load_held(self) -> tuple[Table, dict[str, int]]:
        """Loads the table, and the condition that this holder still has the lease."""
        table = self._load()
        refs = table.refs()
        if self._tag not in refs:
            raise Conflict("another maintenance holds the lease", where=f"table {table.name()[-1]}")
        return table, {self._tag: refs[self._tag].snapshot_id}

    def _set_tag(self, table: Table, expect: Mapping[str, int | None]) -> bool:
        """Replaces the lease's tags by this holder's, with a new time."""
        tag = f"{LEASE}-{now_micros() + int(SECONDS * 1e6)}-{self._holder}"
        newest = newest_snapshot(table).snapshot_id
        former = tuple(name for name in table.refs() if name.startswith(f"{LEASE}-"))
        tags = {LEASE: newest, tag: newest}
        if not update_refs(self._catalog, table, set_tags=tags, remove=former, expect=expect):
            return False
        self._tag = tag
        return True


def mark_first(catalog: Catalog, load: Callable[[], Table]) -> None:
    """Marks the table, so that other writers wait up to MARKED_SECONDS for a commit of the lease's holder.

    Renewing or releasing the lease removes the mark. If other writers keep changing the table, no mark is set.
    """
    for _ in range(TRIES):
        table = load()
        mark = f"{FIRST}{now_micros() + int(MARKED_SECONDS * 1e6)}"
        if update_refs(catalog, table, set_tags={mark: newest_snapshot(table).snapshot_id}, expect={}):
            return


def _holder_tag(refs: Iterable[str]) -> str | None:
    return max((name for name in refs if _NAME.fullmatch(name)), default=None)


def _until(tag: str) -> int:
    """The end of the lease with this tag, in microseconds since 1970."""
    match = _NAME.fullmatch(tag)
    return int(match.group(1)) if match else 0
