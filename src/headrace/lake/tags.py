"""Tags: names that keep a snapshot from expiring.

Each tag is set together with a second tag, named after the snapshot. An expiry is committed on the condition
that the snapshots that it removes have no such second tag (lake/expiry.py).
"""

from __future__ import annotations

from collections.abc import Callable

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from headrace.kernel.errors import CallError
from headrace.lake.metadata import metadata_of
from headrace.lake.refs import TRIES, too_many_tries, update_refs
from headrace.lake.tag_names import KEEP, tags_of

__all__ = ["create_tag", "remove_stale_keeps", "remove_tag"]


def create_tag(
    catalog: Catalog, load: Callable[[], Table], name: str, snapshot: int, *, move: bool = True
) -> bool:
    """Sets a tag; False if the table does not have the snapshot. Raises as LakeTable.create_tag."""
    for _ in range(TRIES):
        table = load()
        if table.snapshot_by_id(snapshot) is None:
            return False
        ref = table.refs().get(name)
        expect = {}
        if not move:
            expect = {name: None if ref is None else snapshot}
            if ref is not None and ref.snapshot_id != snapshot:
                raise CallError(
                    f"{ref.snapshot_ref_type.value} {name!r} names another snapshot: {ref.snapshot_id}",
                    where=f"table {table.name()[-1]}",
                    remedy="A tag does not move. Choose another name, or remove this tag first.",
                )
        tags = {name: snapshot, f"{KEEP}{snapshot}": snapshot}
        if update_refs(catalog, table, set_tags=tags, expect=expect):
            return True
    raise too_many_tries(table)


def remove_tag(catalog: Catalog, load: Callable[[], Table], name: str) -> None:
    """Removes a tag, if it exists. Raises Conflict as LakeTable.remove_tag."""
    for _ in range(TRIES):
        table = load()
        tags = tags_of(metadata_of(table))
        if name not in tags:
            return
        names = [name]
        keep = f"{KEEP}{tags[name]}"
        if list(tags.values()).count(tags[name]) == 1 and keep in table.refs():
            names.append(keep)
        if update_refs(catalog, table, remove=names, expect={name: tags[name]}):
            return
    raise too_many_tries(table)


def remove_stale_keeps(catalog: Catalog, table: Table) -> None:
    """Removes the second tags of snapshots that have no tag any more.

    If another commit is faster, nothing is removed: the next maintenance tries again.
    """
    tagged = set(tags_of(metadata_of(table)).values())
    stale = {
        name: ref.snapshot_id
        for name, ref in table.refs().items()
        if name.startswith(KEEP) and ref.snapshot_id not in tagged
    }
    if stale:
        update_refs(catalog, table, remove=tuple(stale), expect=stale)
