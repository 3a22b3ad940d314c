"""Plans the rebuild of a table: which days are stale, and why, without reading a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time

import msgspec

from headrace.declare.table import ONE_DAY, Day, Table
from headrace.kernel.position import SnapshotPosition, decode_position, encode_position
from headrace.kernel.properties import CODE, INPUT, LATEST_ARRIVAL, REVISION
from headrace.kernel.time import add_days, from_micros
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables.read import Readable, TableInput, good_rows, input_name, resolve_input
from headrace.tables.revisions import merge_revisions

__all__ = ["RebuildPlan", "plan_rebuild", "spread_days"]


class RebuildPlan(msgspec.Struct, frozen=True):
    """The plan of a build of one table.

    Attributes:
        table: the name of the table.
        days: the output days to make, in order; None if the table is not partitioned by day.
        whole: whether the whole table is replaced.
        because: why the table is stale, a sentence for each reason; empty if nothing is stale.
        inputs: the inputs of the build.
        clock: the latest arrival in the inputs, in microseconds since 1970: the value of a function's `now`.
        expect: the properties that this plan was made from; the commit is refused if they have changed.
        rows: input day → rows, over all inputs that are partitioned by day.
        files: the sources whose files have changed, if nothing else made the table stale.
    """

    table: str
    days: list[date] | None
    whole: bool
    because: list[str]
    inputs: list[TableInput]
    clock: int | None
    expect: dict[str, str | None]
    rows: dict[date, int] = {}
    files: list[str] = []

    @property
    def stale(self) -> bool:
        """Whether anything must be made."""
        return self.whole or bool(self.days)

    def properties(self, code: str) -> dict[str, str]:
        """The table's properties after this plan is carried out."""
        properties = {f"{INPUT}{table_input.name}": _text(table_input.version) for table_input in self.inputs}
        if self.clock is not None:
            properties[LATEST_ARRIVAL] = str(self.clock)
        return {**properties, CODE: code}

    @property
    def revisions(self) -> dict[str, str]:
        """The facts of the commit about the git revisions that the inputs were read at."""
        parts = merge_revisions(table_input.revisions for table_input in self.inputs)
        return {f"{REVISION}{source}": revision for source, revision in parts.items()}


def plan_rebuild(
    project: Project, lake: Lake, table: Table, *, code: str, at: Mapping[str, int] | None = None
) -> RebuildPlan:
    """Plans which days of the table must be made, and why.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        code: the fingerprint of its code.
        at: input table → the snapshot to read; the newest for tables that it does not name.

    Raises:
        CallError: a table that it reads does not exist.
        ProjectError: a source has no files.
    """
    reads = project.inputs(table)
    inputs = [
        resolve_input(project, lake, declared, (at or {}).get(input_name(declared))) for declared in reads
    ]
    clocks = [table_input.clock for table_input in inputs if table_input.clock is not None]
    clock = min(clocks) if clocks else None
    current = lake.table(table.name) if lake.table_exists(table.name) else None
    names = [CODE, LATEST_ARRIVAL, *(f"{INPUT}{source.name}" for source in inputs)]
    expect = {name: None if current is None else current.property(name) for name in names}
    day = table.partition_by
    rows: dict[date, int] = {}
    if day is not None:
        for source, declared in zip(inputs, reads, strict=True):
            if source.day_column is not None and source.snapshot is not None:
                counts = lake.table(source.name).rows_per_day(
                    source.day_column, source.snapshot, good_rows(declared)
                )
                rows = {d: rows.get(d, 0) + counts.get(d, 0) for d in rows.keys() | counts.keys()}
    because = _reasons_for_whole(current, code, expect, inputs, partitioned=day is not None)
    files = _changed_files(code, expect, inputs) if because else []
    if day is None:
        return RebuildPlan(table.name, None, bool(because), because, inputs, clock, expect, files=files)
    output_days = spread_days(rows, day)
    if not because:
        days, because = _stale_days(lake, table, day, reads, inputs, expect, clock, output_days)
        if days is not None:
            return RebuildPlan(table.name, sorted(days), False, because, inputs, clock, expect, rows)
    return RebuildPlan(table.name, sorted(output_days), True, because, inputs, clock, expect, rows, files)


def _reasons_for_whole(
    current: LakeTable | None,
    code: str,
    expect: Mapping[str, str | None],
    inputs: list[TableInput],
    *,
    partitioned: bool,
) -> list[str]:
    """Why the whole table is stale; empty if it is not."""
    if current is None or current.current_snapshot() is None or expect[CODE] is None:
        return ["it was never made"]
    if expect[CODE] != code:
        return ["its code changed"]
    return [
        f"{source.name} changed"
        for source in inputs
        if expect[f"{INPUT}{source.name}"] != _text(source.version)
        and not (partitioned and source.day_column is not None)
    ]


def _changed_files(code: str, expect: Mapping[str, str | None], inputs: list[TableInput]) -> list[str]:
    """The sources whose files have changed; empty if the code or an input table has changed as well."""
    changed = [source for source in inputs if expect[f"{INPUT}{source.name}"] != _text(source.version)]
    if expect[CODE] != code or any(source.snapshot is not None for source in changed):
        return []
    return [source.name for source in changed]


def _stale_days(
    lake: Lake,
    table: Table,
    day: Day,
    reads: Sequence[Readable],
    inputs: list[TableInput],
    expect: Mapping[str, str | None],
    clock: int | None,
    output_days: set[date],
) -> tuple[set[date] | None, list[str]]:
    """The output days that are stale, and why; None for the days means all of them."""
    days: set[date] = set()
    because = []
    for source, declared in zip(inputs, reads, strict=True):
        before = expect[f"{INPUT}{source.name}"]
        if source.snapshot is None or source.day_column is None or before == _text(source.version):
            continue
        changed = lake.table(source.name).days_changed(
            source.day_column,
            _snapshot(before),
            source.snapshot,
            good_rows(declared),
        )
        if changed is None:
            return None, [f"{source.name} changed, and the snapshot it was read at has expired"]
        if changed:
            because.append(f"{source.name} changed on {_spell(changed)}")
        days |= spread_days(changed, day)
    previous = expect[LATEST_ARRIVAL]
    if table.takes_now and clock is not None and previous is not None and int(previous) != clock:
        until = from_micros(int(previous))
        still_open = {d for d in output_days if datetime.combine(_last_read(d, day), time.max, UTC) >= until}
        if still_open - days:
            because.append(f"{_spell(still_open)} was still open")
        days |= still_open
    return days, because


def _last_read(output_day: date, day: Day) -> date:
    """The last input day that an output day reads. Once the clock has passed it, the output day is final."""
    return add_days(output_day, day.after)


def spread_days(input_days: Mapping[date, int] | set[date], day: Day) -> set[date]:
    """The output days that read any of these input days: from d - after to d + before for each d."""
    return {
        add_days(d, n * ONE_DAY)
        for d in input_days
        for n in range(-(day.after // ONE_DAY), day.before // ONE_DAY + 1)
    }


def _snapshot(text: str | None) -> int | None:
    if text is None or text.startswith("sha256:"):
        return None
    position = decode_position(text)
    return position.snapshot_id if isinstance(position, SnapshotPosition) else None


def _text(version: SnapshotPosition | str) -> str:
    return version if isinstance(version, str) else encode_position(version)


def _spell(days: set[date]) -> str:
    ordered = sorted(days)
    if len(ordered) <= 3:
        return ", ".join(str(d) for d in ordered)
    return f"{len(ordered)} days, {ordered[0]} to {ordered[-1]}"
