"""The git revisions of the sources that tables are made from, as the summaries of their snapshots name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.kernel.properties import REVISION

__all__ = ["merge_revisions", "revisions_in"]


def revisions_in(summary: Mapping[str, str]) -> dict[str, str]:
    """Source → its revision, `v1@COMMIT`, from the summary of a snapshot."""
    return {name.removeprefix(REVISION): value for name, value in summary.items() if name.startswith(REVISION)}


def merge_revisions(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Source → its revisions in any of the parts, separated by commas."""
    values: dict[str, set[str]] = {}
    for part in parts:
        for source, revisions in part.items():
            values.setdefault(source, set()).update(revisions.split(","))
    return {source: ",".join(sorted(revisions)) for source, revisions in sorted(values.items())}
