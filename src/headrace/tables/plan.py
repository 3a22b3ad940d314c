"""Plans the rebuild of a table: which partitions are stale, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import polars as pl

from headrace.declare.partitioning import Partitioning, name_partition, number_of, start_of
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.position import SnapshotPosition, decode_position, encode_position
from headrace.kernel.properties import CODE, INPUT, LATEST_ARRIVAL, PENDING, RENAMES, REVISION
from headrace.kernel.time import from_micros
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables.changed import RestrictedInput, input_column
from headrace.tables.range import BuildRange
from headrace.tables.read import Readable, TableInput, input_name, resolve_input
from headrace.tables.revisions import merge_revisions

__all__ = ["RebuildPlan", "end_of_input", "partition_by", "plan_rebuild", "spell_partitions"]


class RebuildPlan(msgspec.Struct, frozen=True):
    """The plan of a build of one table.

    Attributes:
        table: the name of the table.
        partitions: the output partitions to make, in order; None if the table has no partitions.
        whole: whether the whole table is replaced.
        because: why the table is stale, a sentence for each reason; empty if nothing is stale.
        inputs: the inputs of the build.
        clock: the latest arrival in the inputs, in microseconds since 1970: the value of a function's `now`.
        expect: the properties that this plan was made from; the commit is refused if they have changed.
        rows: input partition → rows, over all inputs that are restricted to partitions.
        files: the sources whose files have changed, if nothing else made the table stale.
        pending: the stale partitions that this build does not make.
        names: the declared renames: column of the function's rows → its name in the table.
        renames: those of them that the table does not have yet.
        is_range: whether the partitions to make were asked for.
        replaces_all: whether no partition of the table stays as it is.
    """

    table: str
    partitions: list[int] | None
    whole: bool
    because: list[str]
    inputs: list[TableInput]
    clock: int | None
    expect: dict[str, str | None]
    rows: dict[int, int] = {}
    files: list[str] = []
    pending: list[int] = []
    names: dict[str, str] = {}
    renames: dict[str, str] = {}
    is_range: bool = False
    replaces_all: bool = False

    @property
    def has_rows(self) -> bool:
        """Whether rows must be made."""
        return self.whole or bool(self.partitions)

    @property
    def stale(self) -> bool:
        """Whether the table must be changed."""
        return self.has_rows or bool(self.renames)

    def properties(self, code: str) -> dict[str, str]:
        """The table's properties after this plan is carried out."""
        properties = {f"{INPUT}{table_input.name}": _text(table_input.version) for table_input in self.inputs}
        if self.clock is not None:
            properties[LATEST_ARRIVAL] = str(self.clock)
        if self.pending or self.expect.get(PENDING) is not None:
            properties[PENDING] = json.dumps(self.pending)
        if self.names or self.expect.get(RENAMES) is not None:
            properties[RENAMES] = json.dumps(self.names)
        return {**properties, CODE: code}

    @property
    def revisions(self) -> dict[str, str]:
        """The facts of the commit about the git revisions that the inputs were read at."""
        parts = merge_revisions(table_input.revisions for table_input in self.inputs)
        return {f"{REVISION}{source}": revision for source, revision in parts.items()}


def partition_by(table: Table) -> tuple[tuple[str, str], ...]:
    """The declared partitions of the table, in the lake's form."""
    partitioning = table.partition_by
    return () if partitioning is None else ((partitioning.column, partitioning.transform),)


def plan_rebuild(
    project: Project,
    lake: Lake,
    table: Table,
    *,
    code: str,
    at: Mapping[str, int] | None = None,
    only: BuildRange | None = None,
    other_columns: str | None = None,
) -> RebuildPlan:
    """Plans which partitions of the table must be made, and why.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        code: the fingerprint of its code.
        at: input table → the snapshot to read; the newest for tables that it does not name.
        only: what to make, stale or not; None: what is stale.
        other_columns: the reason to make all of it because its rows have other columns; None: there is none.

    Raises:
        CallError: a table that it reads does not exist, or the table has no days to choose from.
        ProjectError: a source has no files, or an input does not fit the partitions.
        Refused: an input has rows that belong to no partition.
    """
    reads = project.inputs(table)
    partitioning = table.partition_by
    inputs = [
        _restrict(project, lake, partitioning, declared, (at or {}).get(input_name(declared)))
        for declared in reads
    ]
    clocks = [table_input.clock for table_input in inputs if table_input.clock is not None]
    clock = min(clocks) if clocks else None
    current = lake.table(table.name) if lake.table_exists(table.name) else None
    names = [CODE, LATEST_ARRIVAL, PENDING, RENAMES, *(f"{INPUT}{source.name}" for source in inputs)]
    expect = {name: None if current is None else current.property(name) for name in names}
    because = _reasons_for_whole(lake, table, current, code, expect, inputs)
    because = because or ([] if other_columns is None else [other_columns])
    files = _changed_files(code, expect, inputs) if because else []
    is_whole_requested = only is not None and only.is_whole
    if is_whole_requested and not because:
        because, files = ["all of it was asked for"], []
    if partitioning is None:
        if only is not None and not only.is_whole:
            raise _no_days(table)
        plan = RebuildPlan(table.name, None, bool(because), because, inputs, clock, expect, files=files)
        return _rename_columns(plan, table, current)
    restricted = _restricted_inputs(project, lake, table, partitioning, reads, inputs)
    rows = _count_rows(restricted)
    outputs = partitioning.spread(rows)
    plan = RebuildPlan(table.name, sorted(outputs), True, because, inputs, clock, expect, rows, files)
    if not because:
        stale, because = _stale_partitions(table, partitioning, restricted, plan, outputs)
        if stale is not None:
            plan = msgspec.structs.replace(plan, partitions=sorted(stale), whole=False, because=because)
        else:
            plan = msgspec.structs.replace(plan, because=because)
    if only is not None and not only.is_whole:
        plan = _restrict_plan(table, partitioning, plan, current, only, code)
    return _rename_columns(plan, table, current)


def _count_rows(restricted: Sequence[RestrictedInput]) -> dict[int, int]:
    """Input partition → rows, over all inputs."""
    rows: Counter[int] = Counter()
    for source in restricted:
        rows.update(source.rows_per_partition())
    return dict(rows)


def _rename_columns(plan: RebuildPlan, table: Table, current: LakeTable | None) -> RebuildPlan:
    """The plan with the declared renames that the newest snapshot does not have yet.

    Raises:
        ProjectError: a rename has no column, or its new name is that of another column.
    """
    columns = {} if current is None else current.columns() or {}
    if not plan.has_rows:  # rows that are made show it by themselves
        for old, new in table.renames.items():
            if (old in columns) == (new in columns):
                what = "both are columns" if old in columns else "neither is a column"
                raise ProjectError(
                    f"renames={{{old!r}: {new!r}}}: {what} of table {table.name}",
                    where=str(table.place),
                    remedy="Name a column that the function returns, and a new name.",
                )
    renames = {old: new for old, new in table.renames.items() if old in columns}
    because = [f"column {old!r} is {new!r} now" for old, new in renames.items()]
    return msgspec.structs.replace(
        plan, names=dict(table.renames), renames=renames, because=[*plan.because, *because]
    )


def _restrict(
    project: Project, lake: Lake, partitioning: Partitioning | None, declared: Readable, snapshot: int | None
) -> TableInput:
    """The input at its version, with the column by which it is restricted to a partition."""
    resolved = resolve_input(project, lake, declared, snapshot)
    if partitioning is None or resolved.snapshot is None:
        return resolved
    schema = pl.Schema(lake.table(resolved.name).schema())
    return msgspec.structs.replace(resolved, column=input_column(declared, partitioning, schema))


def _restricted_inputs(
    project: Project,
    lake: Lake,
    table: Table,
    partitioning: Partitioning,
    reads: Sequence[Readable],
    inputs: Sequence[TableInput],
) -> list[RestrictedInput]:
    return [
        RestrictedInput(
            project, lake, table, partitioning, declared, source.name, source.snapshot, source.column
        )
        for source, declared in zip(inputs, reads, strict=True)
        if source.column is not None and source.snapshot is not None
    ]


def _restrict_plan(
    table: Table,
    partitioning: Partitioning,
    plan: RebuildPlan,
    current: LakeTable | None,
    only: BuildRange,
    code: str,
) -> RebuildPlan:
    """The plan of a build of a range: it makes the range, and leaves what else is stale for a later build.

    Raises:
        CallError: the table has no days or is made at once, the range has no partition, the table's partitions
            have changed, or its code has changed and partitions of the old code would stay beside those of the
            new one.
    """
    assert only.first is not None, "the caller has checked the range"
    assert only.last is not None, "the caller has checked the range"
    _check_days(table, partitioning, plan)
    stored: set[int] = set()
    snapshot = None if current is None else current.current_snapshot()
    if current is not None and snapshot is not None:
        if current.partition_by() != partition_by(table):
            raise CallError(
                f"table {table.name} has other partitions in the lake, so a range of it cannot be made",
                where=str(table.place),
                remedy=f"Build all of it: headrace build {table.name}",
            )
        stored = set(current.rows_per_partition(partition_by(table)[0], snapshot.id))
    grain = partitioning.grain
    first = number_of(grain, datetime.combine(only.first, datetime.min.time()))
    last = number_of(grain, datetime.combine(only.last, datetime.max.time()))
    known = partitioning.spread(plan.rows) | stored
    chosen = {number for number in known if first <= number <= last}
    if not chosen:
        raise CallError(
            f"table {table.name} has no {grain}s from {only.first} to {only.last}",
            where=str(table.place),
            remedy=f"It has {spell_partitions(partitioning, known)}." if known else "Its inputs have no rows.",
        )
    left = stored - chosen
    if left and plan.expect[CODE] != code:
        raise CallError(
            f"the code of table {table.name} changed, and {spell_partitions(partitioning, left)} made by the"
            " old code would stay beside the range",
            where=str(table.place),
            remedy=f"Build all of it: headrace build {table.name}. headrace try {table.name} runs a partition"
            " by the new code, without publishing.",
        )
    stale = known if plan.whole else set(plan.partitions or ())
    because = [*plan.because, f"{spell_partitions(partitioning, chosen)} was asked for"]
    return msgspec.structs.replace(
        plan,
        partitions=sorted(chosen),
        whole=False,
        because=because,
        files=[],
        pending=sorted(stale - chosen),
        is_range=True,
        replaces_all=not left,
    )


def _no_days(table: Table) -> CallError:
    kind = (
        "has no partitions" if table.partition_by is None else f"is partitioned {table.partition_by.describe()}"
    )
    return CallError(
        f"table {table.name} {kind}, so it has no days to choose from",
        where=str(table.place),
        remedy=f"Build all of it: headrace build {table.name} --full",
    )


def _check_days(table: Table, partitioning: Partitioning, plan: RebuildPlan) -> None:
    """Raises CallError if the table has no days, or its rows are made at once whatever day they are of."""
    if not partitioning.is_time:
        raise _no_days(table)
    if all(source.column is None for source in plan.inputs):
        raise CallError(
            f"table {table.name} reads no table by {partitioning.column!r}, so all its rows are made at once,"
            " and a range of them cannot be made alone",
            where=str(table.place),
            remedy=f"Build all of it: headrace build {table.name} --full",
        )


def _reasons_for_whole(
    lake: Lake,
    table: Table,
    current: LakeTable | None,
    code: str,
    expect: Mapping[str, str | None],
    inputs: list[TableInput],
) -> list[str]:
    """Why the whole table is stale; empty if it is not."""
    if current is None or current.current_snapshot() is None or expect[CODE] is None:
        return ["it was never made"]
    partitions = tuple((table.renames.get(name, name), transform) for name, transform in current.partition_by())
    if partitions != partition_by(table):
        return ["its partitions changed"]
    if expect[CODE] != code:
        return ["its code changed"]
    # A column that had another name before has lost its own: only the function's rows have it.
    applied: dict[str, str] = json.loads(expect[RENAMES] or "{}")
    other_names = [
        f"column {column!r} is not {name!r} any more"
        for column, name in applied.items()
        if table.renames.get(column) != name
    ]
    if other_names:
        return other_names
    changed = [source for source in inputs if expect[f"{INPUT}{source.name}"] != _text(source.version)]
    because = [f"{source.name} changed" for source in changed if source.column is None]
    return because or [
        f"{source.name} has other columns"
        for source in changed
        if _has_other_columns(lake, source, _snapshot(expect[f"{INPUT}{source.name}"]))
    ]


def _has_other_columns(lake: Lake, source: TableInput, before: int | None) -> bool:
    """Whether the input has other columns than the snapshot that was read before, whose partitions may be the
    same: then the function's rows may have other columns too."""
    if before is None or (old := lake.table(source.name).columns(before)) is None:
        return False
    new = lake.table(source.name).columns(source.snapshot)
    return new is not None and list(old.items()) != list(new.items())


def _changed_files(code: str, expect: Mapping[str, str | None], inputs: list[TableInput]) -> list[str]:
    """The sources whose files have changed; empty if the code or an input table has changed as well."""
    changed = [source for source in inputs if expect[f"{INPUT}{source.name}"] != _text(source.version)]
    if expect[CODE] != code or any(source.snapshot is not None for source in changed):
        return []
    return [source.name for source in changed]


def _stale_partitions(
    table: Table,
    partitioning: Partitioning,
    restricted: Sequence[RestrictedInput],
    plan: RebuildPlan,
    outputs: set[int],
) -> tuple[set[int] | None, list[str]]:
    """The output partitions that are stale, and why; None for the partitions means all of them."""
    expect = plan.expect
    pending = set(json.loads(expect[PENDING] or "[]"))
    stale: set[int] = set(pending)
    because = [f"a build of a range left out {spell_partitions(partitioning, pending)}"] if pending else []
    for source in restricted:
        before = expect[f"{INPUT}{source.name}"]
        if before == _text(SnapshotPosition(source.name, source.snapshot)):
            continue
        changed = source.changed_partitions(_snapshot(before))
        if changed is None:
            why = "most of its rows changed, or the snapshot it was read at has expired"
            return None, [f"{source.name} changed: {why}"]
        if changed:
            kind = "on" if partitioning.is_time else "in"
            because.append(f"{source.name} changed {kind} {spell_partitions(partitioning, changed)}")
        stale |= partitioning.spread(changed)
    previous = expect[LATEST_ARRIVAL]
    if table.takes_now and plan.clock is not None and previous is not None and int(previous) != plan.clock:
        until = from_micros(int(previous))
        still_open = {number for number in outputs if _is_open(partitioning, number, until)}
        if still_open - stale:
            because.append(f"{spell_partitions(partitioning, still_open)} was still open")
        stale |= still_open
    return stale, because


def end_of_input(partitioning: Partitioning, number: int) -> datetime | None:
    """The instant at which the input that a partition reads ends; None: it has no end, as that of a hash."""
    _, last = partitioning.window(number, number)
    if not partitioning.is_time or last >= partitioning.limits[1]:
        return None
    zone = UTC if partitioning.timezone is None else ZoneInfo(partitioning.timezone)
    return start_of(partitioning.grain, last + 1).replace(tzinfo=zone).astimezone(UTC)


def _is_open(partitioning: Partitioning, number: int, clock: datetime) -> bool:
    """Whether the clock had not passed the last input that a partition reads."""
    end = end_of_input(partitioning, number)
    return end is None or end - timedelta(microseconds=1) >= clock


def _snapshot(text: str | None) -> int | None:
    if text is None or text.startswith("sha256:"):
        return None
    position = decode_position(text)
    return position.snapshot_id if isinstance(position, SnapshotPosition) else None


def _text(version: SnapshotPosition | str) -> str:
    return version if isinstance(version, str) else encode_position(version)


def spell_partitions(partitioning: Partitioning, numbers: Collection[int]) -> str:
    """The partitions in words: the names of a few, else how many they are, the first and the last."""
    ordered = [name_partition(partitioning, number) for number in sorted(numbers)]
    if len(ordered) <= 3:
        return ", ".join(ordered) if partitioning.is_time else f"part {', '.join(ordered)}"
    if not partitioning.is_time:
        return f"{len(ordered)} parts"
    return f"{len(ordered)} {partitioning.grain}s, {ordered[0]} to {ordered[-1]}"
