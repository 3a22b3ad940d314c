"""What of a table is stale, and why; found without reading a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time

import msgspec

from headrace.declare.table import ONE_DAY, Day, Table
from headrace.kernel.position import SnapshotPosition, decode_position, encode_position
from headrace.kernel.properties import CODE, INPUT, LATEST_ARRIVAL
from headrace.kernel.time import add_days, from_micros
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables.read import Readable, TableInput, good_rows, input_name, resolve_input

__all__ = ["RebuildPlan", "plan_rebuild", "spread_days"]


class RebuildPlan(msgspec.Struct, frozen=True):
    """What a build of one table would do.

    Attributes:
        table: its name.
        days: the output days to make, in order; None where it is not partitioned by day. Empty: none.
        whole: whether all of it is made again, so that what was there before goes.
        because: why it is stale, one sentence each; empty where nothing is to be done.
        inputs: what it would read.
        clock: the inputs' clock, microseconds since 1970: what a function's `now` becomes.
        expect: the properties this plan was made from; the commit is refused where they have changed.
        rows: input rows a day, over all inputs that are partitioned by day.
    """

    table: str
    days: list[date] | None
    whole: bool
    because: list[str]
    inputs: list[TableInput]
    clock: int | None
    expect: dict[str, str | None]
    rows: dict[date, int] = {}

    @property
    def stale(self) -> bool:
        """Whether there is anything to make."""
        return self.whole or bool(self.days)

    def properties(self, code: str) -> dict[str, str]:
        """What the table's properties say once this plan is carried out."""
        said = {f"{INPUT}{one.name}": _text(one.version) for one in self.inputs}
        if self.clock is not None:
            said[LATEST_ARRIVAL] = str(self.clock)
        return {**said, CODE: code}


def plan_rebuild(
    project: Project, lake: Lake, table: Table, *, code: str, at: Mapping[str, int] | None = None
) -> RebuildPlan:
    """What of the table must be made, and why.

    Args:
        project, lake: where it lives.
        table: the declared table.
        code: the fingerprint of its code.
        at: input table → the snapshot to read; those not named are read at their newest.

    Raises:
        CallError: a table that it reads is not there.
        ProjectError: a source's files are not there.
    """
    reads = project.inputs(table)
    inputs = [resolve_input(project, lake, one, (at or {}).get(input_name(one))) for one in reads]
    clocks = [one.clock for one in inputs if one.clock is not None]
    clock = min(clocks) if clocks else None
    made = lake.table(table.name) if lake.table_exists(table.name) else None
    names = [CODE, LATEST_ARRIVAL, *(f"{INPUT}{one.name}" for one in inputs)]
    expect = {name: None if made is None else made.property(name) for name in names}
    day = table.partition_by
    rows: dict[date, int] = {}
    if day is not None:
        for one, declared in zip(inputs, reads, strict=True):
            if one.day_column is not None and one.snapshot is not None:
                found = lake.table(one.name).rows_per_day(one.day_column, one.snapshot, good_rows(declared))
                rows = {d: rows.get(d, 0) + found.get(d, 0) for d in rows.keys() | found.keys()}
    because = _whole(made, code, expect, inputs, partitioned=day is not None)
    if day is None:
        return RebuildPlan(table.name, None, bool(because), because, inputs, clock, expect)
    every = spread_days(rows, day)
    if not because:
        days, because = _changed(lake, table, day, reads, inputs, expect, clock, every)
        if days is not None:
            return RebuildPlan(table.name, sorted(days), False, because, inputs, clock, expect, rows)
    return RebuildPlan(table.name, sorted(every), True, because, inputs, clock, expect, rows)


def _whole(
    made: LakeTable | None,
    code: str,
    expect: Mapping[str, str | None],
    inputs: list[TableInput],
    *,
    partitioned: bool,
) -> list[str]:
    """Why all of the table is stale, if it is."""
    if made is None or made.current_snapshot() is None or expect[CODE] is None:
        return ["it was never made"]
    if expect[CODE] != code:
        return ["its code changed"]
    return [
        f"{one.name} changed"
        for one in inputs
        if expect[f"{INPUT}{one.name}"] != _text(one.version)
        and not (partitioned and one.day_column is not None)
    ]


def _changed(
    lake: Lake,
    table: Table,
    day: Day,
    reads: Sequence[Readable],
    inputs: list[TableInput],
    expect: Mapping[str, str | None],
    clock: int | None,
    every: set[date],
) -> tuple[set[date] | None, list[str]]:
    """The output days that are stale (None: all), and why."""
    days: set[date] = set()
    because = []
    for one, declared in zip(inputs, reads, strict=True):
        before = expect[f"{INPUT}{one.name}"]
        if one.snapshot is None or one.day_column is None or before == _text(one.version):
            continue
        changed = lake.table(one.name).days_changed(
            one.day_column,
            _snapshot(before),
            one.snapshot,
            good_rows(declared),
        )
        if changed is None:
            return None, [f"{one.name} changed, and what it was made from is no longer known"]
        if changed:
            because.append(f"{one.name} changed on {_spell(changed)}")
        days |= spread_days(changed, day)
    then = expect[LATEST_ARRIVAL]
    if table.takes_now and clock is not None and then is not None and int(then) != clock:
        until = from_micros(int(then))
        still_open = {d for d in every if datetime.combine(_last_read(d, day), time.max, UTC) >= until}
        if still_open - days:
            because.append(f"{_spell(still_open)} was still open")
        days |= still_open
    return days, because


def _last_read(output_day: date, day: Day) -> date:
    """The last input day that an output day reads: nothing that comes in time can change it after that."""
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
