"""What the build keeps outside of git, and whether it stands where the pointers say.

`git checkout` brings back the pointers and dvc.lock of another commit, and neither the lake nor the online
state, Feast's registry and models/. DVC looks at files alone, and finds nothing stale.

A table says by itself which snapshot it stands at. For the others a file in the state folder notes the pointer
that each stage's work ended with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from headrace.config.settings import Settings
from headrace.flows.build.graph import Stage
from headrace.flows.build.pointers import Pointers, write_whole
from headrace.kernel.digest import digest_file
from headrace.lake.snapshot_ids import missing_snapshots, rows_snapshot_ids

__all__ = ["FILE", "IN_LAKE", "displaced", "drop_dangling", "note", "tables_standing"]

FILE = "standing.json"
IN_LAKE = ("table", "training_set")
_NOTED = {
    "features": "Feast's registry holds the definitions of another commit",
    "online": "the online state was filled for another commit",
    "train": "the files of another version lie there",
}


def note(settings: Settings, stage: Stage) -> None:
    """The stage's work is done: what it keeps outside of git is what its pointer says."""
    if stage.kind in _NOTED:
        notes = {**_notes(settings), stage.name: _digest(settings, stage)}
        settings.made_state()
        write_whole(settings.place(FILE), json.dumps(notes, sort_keys=True).encode())


def displaced(settings: Settings, stages: Iterable[Stage]) -> dict[str, str]:
    """Stage → what stands elsewhere than its pointer says; stages without a pointer are left out.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    pointers, notes = Pointers(settings.root), _notes(settings)
    chosen = [stage for stage in stages if pointers.read(stage.out) is not None]
    standing = tables_standing(settings, [stage for stage in chosen if stage.kind in IN_LAKE])
    found = {}
    for stage in chosen:
        if stage.name in standing:
            table, snapshot, current = standing[stage.name]
            if current != snapshot:
                found[stage.name] = f"{table} in the lake holds other rows than {stage.out} names"
        elif stage.kind in _NOTED and notes.get(stage.name) != _digest(settings, stage):
            found[stage.name] = _NOTED[stage.kind]
    return found


def tables_standing(settings: Settings, stages: Iterable[Stage]) -> dict[str, tuple[str, int, int | None]]:
    """Stage → its table, the snapshot that its pointer names, and the one whose rows the table has.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    pointers = Pointers(settings.root)
    held = {stage.name: pointers.read(stage.out) for stage in stages}
    named = {name: (str(one["table"]), int(one["snapshot"])) for name, one in held.items() if one is not None}
    current = rows_snapshot_ids(settings, {table for table, _ in named.values()})
    return {name: (table, snapshot, current[table]) for name, (table, snapshot) in named.items()}


def drop_dangling(settings: Settings, stages: Iterable[Stage]) -> None:
    """A pointer to a snapshot that this lake does not have (a fresh clone, another profile) is none."""
    pointers = Pointers(settings.root)
    tables: dict[str, tuple[int, str]] = {}
    for stage in stages:
        held = pointers.read(stage.out)
        if held is None:
            continue
        if stage.kind in IN_LAKE:
            tables[held["table"]] = int(held["snapshot"]), stage.out
        elif stage.kind == "inputs" and missing_snapshots(settings, held["snapshots"]):
            pointers.remove(stage.out)
    for table in missing_snapshots(settings, {table: snapshot for table, (snapshot, _) in tables.items()}):
        pointers.remove(tables[table][1])


def _notes(settings: Settings) -> dict[str, str]:
    try:
        notes: dict[str, str] = json.loads(settings.place(FILE).read_bytes())
    except FileNotFoundError:
        return {}
    return notes


def _digest(settings: Settings, stage: Stage) -> str:
    return digest_file(settings.root / stage.out)
