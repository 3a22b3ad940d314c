"""The names of the lake's internal tags, and the tags that are not internal."""

from __future__ import annotations

from headrace.lake.metadata import TableMetadata

__all__ = ["KEEP", "LEASE", "tags_of"]

KEEP = "headrace-keep-"  # and a snapshot's id: the second tag of a tagged snapshot (lake/tags.py)
LEASE = "headrace-maintenance"  # the lease of a table's maintenance (lake/lease.py)


def tags_of(metadata: TableMetadata) -> dict[str, int]:
    """Tag → snapshot id, without the lake's internal tags."""
    return {
        name: ref.snapshot_id
        for name, ref in metadata.refs.items()
        if ref.type == "tag" and not name.startswith((KEEP, LEASE))
    }
