"""Drift: finds data outside of git that no longer agree with the pointers.

`git checkout` of another commit brings back its pointers and dvc.lock, but not the lake, the online state,
Feast's registry or models/. DVC compares files only, so it finds nothing stale.

A table of the lake has a current snapshot to compare. For the other stages a file in the state folder records
the digest of the pointer that the stage last wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers, write_if_changed
from headrace.flows.build.stage import LakeStage, Stage
from headrace.kernel.digest import digest_file
from headrace.lake.table_state import find_missing_snapshots, rows_snapshot_ids
from headrace.workspace import Workspace

__all__ = ["FILE", "find_drift", "record_state", "remove_void_pointers", "table_snapshots"]

FILE = "applied_pointers.json"


def record_state(settings: Settings, stage: Stage) -> None:
    """Records that the stage's data outside of git agree with its pointer."""
    if stage.drift:
        digests = {**_read_digests(settings), stage.name: digest_file(settings.root / stage.out)}
        settings.make_state()
        write_if_changed(settings.place(FILE), json.dumps(digests, sort_keys=True).encode())


def find_drift(workspace: Workspace, stages: Iterable[Stage]) -> dict[str, str]:
    """Stage → how its data outside of git differ from its pointer. Stages without a pointer are left out.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    pointers, digests = Pointers(workspace.settings.root), _read_digests(workspace.settings)
    chosen = [stage for stage in stages if pointers.read(stage.out) is not None]
    snapshots = table_snapshots(workspace, chosen)
    drift = {}
    for stage in chosen:
        if stage.name in snapshots:
            table, snapshot, current = snapshots[stage.name]
            if current != snapshot:
                drift[stage.name] = f"{table} in the lake holds other rows than {stage.out} names"
        elif stage.drift and digests.get(stage.name) != digest_file(workspace.settings.root / stage.out):
            drift[stage.name] = stage.drift
    return drift


def table_snapshots(workspace: Workspace, stages: Iterable[Stage]) -> dict[str, tuple[str, int, int | None]]:
    """Stage → its table, the snapshot its pointer names, and the snapshot whose rows the table has now.

    Stages that make no table, or have no pointer, are left out.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    pointers = Pointers(workspace.settings.root)
    named: dict[str, tuple[str, int]] = {}
    for stage in stages:
        pointer = pointers.read(stage.out) if isinstance(stage, LakeStage) else None
        if pointer is not None:
            ((table, snapshot),) = stage.snapshots(pointer).items()
            named[stage.name] = table, snapshot
    current = rows_snapshot_ids(workspace.lake, {table for table, _ in named.values()})
    return {name: (table, snapshot, current[table]) for name, (table, snapshot) in named.items()}


def remove_void_pointers(workspace: Workspace, stages: Iterable[Stage]) -> None:
    """Removes pointers to snapshots that this lake does not have, as in a fresh clone or another profile."""
    pointers = Pointers(workspace.settings.root)
    contents = {stage: pointers.read(stage.out) for stage in stages}
    named = {stage: stage.snapshots(content) for stage, content in contents.items() if content is not None}
    lost = find_missing_snapshots(
        workspace.lake, {item for snapshots in named.values() for item in snapshots.items()}
    )
    for stage, snapshots in named.items():
        if not lost.isdisjoint(snapshots.items()):
            pointers.remove(stage.out)


def _read_digests(settings: Settings) -> dict[str, str]:
    try:
        digests: dict[str, str] = json.loads(settings.place(FILE).read_bytes())
    except FileNotFoundError:
        return {}
    return digests
