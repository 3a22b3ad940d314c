"""Whether a table's rows depend on its input alone: `headrace try --strict`."""

from __future__ import annotations

from datetime import timedelta

import attrs
import polars as pl

from headrace.kernel.errors import ProjectError
from headrace.projects.project import Project
from headrace.tables.attempt import Attempt, compare_rows
from headrace.tables.impurity import find_clock_texts, watch_calls
from headrace.tables.plan import end_of_input
from headrace.tables.second_run import run_elsewhere

__all__ = ["find_impurities"]

_LATER = timedelta(days=400)


def find_impurities(project: Project, attempt: Attempt) -> list[str]:
    """What the table's function reads beside its input, or how its rows differ in other runs, a sentence each.

    The function is called while its calls are watched, and in a process where all but the input differs. If it
    takes `now`, it is also called with a clock that has passed the end of its input.
    """
    table = attempt.table
    runs: list[pl.DataFrame] = []
    findings = find_clock_texts(table)
    findings += watch_calls(table, lambda: runs.append(attempt.call()))
    differing = _compare("two runs give other rows for the same input", attempt, attempt.rows, runs[0])
    return [*findings, *(differing or _run_elsewhere(project, attempt)), *_find_late_changes(attempt)]


def _run_elsewhere(project: Project, attempt: Attempt) -> list[str]:
    try:
        rows = run_elsewhere(project, attempt)
    except ProjectError as error:
        return [f"it fails in another process, folder and environment: {error.what}"]
    what = "a run in another process, folder, environment and second gives other rows for the same input"
    return _compare(what, attempt, attempt.rows, rows)


def _find_late_changes(attempt: Attempt) -> list[str]:
    """Whether the rows of a partition still change when the clock has passed the end of its input, and no build
    makes it again."""
    partitioning = attempt.table.partition_by
    if not attempt.table.takes_now or partitioning is None or attempt.number is None:
        return []
    end = end_of_input(partitioning, attempt.number)
    if end is None:
        return []
    at_end, later = (attrs.evolve(attempt, options={"now": now}).call() for now in (end, end + _LATER))
    what = (
        f"the rows still change with `now` after the end of the input ({end:%Y-%m-%d %H:%M} UTC), when no build"
        f" makes the partition again: declare a larger after= in {partitioning.grain}()"
    )
    return _compare(what, attempt, at_end, later)


def _compare(what: str, attempt: Attempt, before: pl.DataFrame, after: pl.DataFrame) -> list[str]:
    """One sentence if the rows of the partition differ."""
    first, second = attempt.keep_partition(before), attempt.keep_partition(after)
    if first.schema != second.schema:
        return [f"{what}: the columns are {dict(first.schema)} and {dict(second.schema)}"]
    difference = compare_rows(second, first)
    is_equal = not difference.added and not difference.removed
    return [] if is_equal else [f"{what}: {'; '.join(difference.examples)}"]
