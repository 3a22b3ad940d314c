"""Makes the tables of a build visible to readers: all at once, and never one without those it is used with.

Tables are *related* if one reads the other, if an audit of one reads the other, or if they are published
together. A table that is stale after the build, because it failed or was not a target, stays as readers saw it
before; and so does every changed table that is related to it, directly or through other changed tables. A table
that readers do not see at all holds up none by itself, because nothing old of it can stand beside new rows. All
others become visible, so a failure does not hold up what has nothing to do with it.

What readers see of a table that waits may have been made by other code than the present one. So the record
keeps which tables its visible rows were made with: these wait with it too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import permutations

from headrace.flows.build.context import BuildContext
from headrace.flows.build.drift import table_snapshots
from headrace.flows.build.preview import Preview
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.stages.table import TableStage
from headrace.kernel.counts import plural
from headrace.kernel.errors import Conflict
from headrace.kernel.faults import reach
from headrace.kernel.properties import CODE
from headrace.lake.table_state import read_table_states
from headrace.lake.visible import (
    VisibleRecord,
    keep_snapshots,
    read_record,
    release_snapshots,
    write_record,
)

__all__ = ["advance", "ensure_record", "find_stale_tables", "make_visible", "related_tables"]

_TRIES = 20


def ensure_record(context: BuildContext) -> None:
    """Writes a first record, of the tables as they are, so that readers do not see a build's tables before it
    has ended. If there is a record, does nothing.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    if read_record(context.lake) is not None:
        return
    tables = {
        name: state.snapshot
        for name, state in read_table_states(context.lake).items()
        if state.snapshot is not None and CODE in state.properties
    }
    keep_snapshots(context.lake, tables)
    try:
        write_record(context.lake, VisibleRecord(tables), None)
    except Conflict:  # another build has written one
        return


def find_stale_tables(context: BuildContext, targets: Collection[str]) -> dict[str, str]:
    """Table that is stale after a build of some tables → why.

    Args:
        context: the context of the build.
        targets: the tables that the build has brought up to date, as far as they did not fail. They are stale
            only if it was a build of a range, which has left partitions out.
    """
    preview = Preview(BuildContext(context.workspace))
    stale = {}
    for stage in context.graph.stages:
        if not isinstance(stage, TableStage):
            continue
        if stage.subject in targets:
            if pending := stage.count_pending(context):
                partitions = plural(pending, "partition")
                stale[stage.subject] = f"a build of a range left out {partitions} of {stage.subject}"
        elif preview.check(stage):
            stale[stage.subject] = f"{stage.subject} is stale"
    return stale


def make_visible(context: BuildContext, stale: Mapping[str, str]) -> VisibleRecord:
    """Makes the tables visible that were built, and returns the record that readers resolve from now on.

    Whoever is killed before the end has changed nothing for readers; the next build makes them visible.

    Args:
        context: the context of the build.
        stale: table → why it, and the changed tables that are related to it, must wait.

    Raises:
        Conflict: other builds kept writing the record.
        Unavailable: the catalog is locked or cannot be reached.
    """
    lake, code = context.lake, context.code
    for _ in range(_TRIES):
        before = read_record(lake)
        named = table_snapshots(context.workspace, context.graph.stages).values()
        states = {table: (snapshot, rows) for table, snapshot, rows in named if table in code.tables}
        built = {table: snapshot for table, (snapshot, rows) in states.items() if snapshot == rows}
        others = {table: f"{table} has rows of another build" for table in states.keys() - built.keys()}
        old = VisibleRecord() if before is None else before
        record = advance(old, built, {**others, **stale}, related_tables(code), _made_with(code))
        tables = {name: at for name, at in record.tables.items() if name in states or lake.table_exists(name)}
        made_with = {name: others for name, others in record.made_with.items() if name in tables}
        record = VisibleRecord(tables, record.waiting, made_with)
        if record == before:
            return record
        changed = {name: at for name, at in record.tables.items() if old.tables.get(name) != at}
        keep_snapshots(lake, changed)
        reach("build.before_visible")
        try:
            write_record(lake, record, before)
        except Conflict:  # another build was faster
            continue
        reach("build.after_visible")
        release_snapshots(lake, changed)
        return record
    raise Conflict(
        "other builds kept making tables visible",
        where=lake.where,
        remedy="What was built is kept: headrace build makes it visible.",
    )


def advance(
    before: VisibleRecord,
    built: Mapping[str, int],
    stale: Mapping[str, str],
    related: Mapping[str, Iterable[str]],
    made_with: Mapping[str, Iterable[str]],
) -> VisibleRecord:
    """The record after a build.

    Args:
        before: the record before it.
        built: declared table → its newest snapshot, for those that have one.
        stale: declared table that is not up to date → why.
        related: table → those it is related to.
        made_with: table → those that its rows are made or audited with.
    """
    changed = {table for table, snapshot in built.items() if before.tables.get(table) != snapshot}
    waiting = {table: why for table, why in stale.items() if table in changed}
    pending = [(table, why) for table, why in stale.items() if table in before.tables]
    holding = {table for table, _ in pending}
    while pending:
        table, why = pending.pop(0)
        for other in {*related.get(table, ()), *before.made_with.get(table, ())}:
            if other in changed and other not in holding:
                holding.add(other)
                waiting.setdefault(other, why)
                pending.append((other, why))
    tables = {**before.tables, **{table: at for table, at in built.items() if table not in waiting}}
    present = {
        table: sorted(made_with.get(table, ())) for table in built.keys() - stale.keys() - waiting.keys()
    }
    return VisibleRecord(tables, waiting, {**before.made_with, **present})


def related_tables(code: ProjectCode) -> dict[str, set[str]]:
    """Declared table → the tables that it is related to."""
    related: dict[str, set[str]] = defaultdict(set)
    pairs = [(table, other) for table, others in _made_with(code).items() for other in others]
    for publication in code.publications.values():
        pairs += permutations(publication.tables, 2)
    for table, other in pairs:
        related[table].add(other)
        related[other].add(table)
    return dict(related)


def _made_with(code: ProjectCode) -> dict[str, set[str]]:
    """Declared table → the tables that it reads, and those that its audits read."""
    made_with = {
        table: {read.name for read in code.reads[table] if read.kind == "tables"} for table in code.tables
    }
    for table, names in code.references.items():
        made_with[table].update(names)
    return made_with
