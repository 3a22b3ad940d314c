"""rows_like_before(...): the number of rows is like that of the table's own history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from headrace.declare.audits import RowsLikeBefore
from headrace.declare.partitioning import name_partition
from headrace.kernel.counts import plural
from headrace.tables.audits.port import AuditScope, RuleFailure

__all__ = ["check_volume"]

_HISTORY = 7  # partitions before a new one that it is compared with
_NAMED = 3


def check_volume(audit: RowsLikeBefore, scope: AuditScope) -> RuleFailure | None:
    """Checks the number of rows of the table, or of each of its complete partitions."""
    if scope.is_unchanged:  # no new rows: what was found of these still holds
        result = scope.previous.get(str(audit))
        return None if result is None or result.passed else RuleFailure(result.what)
    if not scope.published_count:
        return None
    partitioning = scope.table.partition_by
    if partitioning is None or not partitioning.is_time or not scope.published_rows or not scope.count:
        before = scope.published_count
        if _is_like(audit, scope.count, before):
            return None
        return RuleFailure(f"the table would have {plural(scope.count, 'row')}, and has {before:,}")
    wrong = [
        f"{name_partition(partitioning, number)} has {plural(count, 'row')}, and {expected:,.10g} {history}"
        for number, count, expected, history in _compare(scope.partition_rows, scope.published_rows)
        if not _is_like(audit, count, expected)
    ]
    if not wrong:
        return None
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return RuleFailure("; ".join(wrong[:_NAMED]) + more)


def _is_like(audit: RowsLikeBefore, count: int, expected: float) -> bool:
    return abs(count - expected) <= audit.share * expected


def _compare(rows: Mapping[int, int], published: Mapping[int, int]) -> Iterator[tuple[int, int, float, str]]:
    """Each complete partition that has a history: its number, its rows, those expected, and what these are."""
    last, last_published, numbers = max(rows), max(published), sorted(rows)
    for number in sorted({*rows, *published}):
        count = rows.get(number, 0)
        if number in published and number < last_published:
            yield number, count, published[number], "are published"
        elif number < last:
            earlier = [rows[n] for n in numbers if n < number][-_HISTORY:]
            if earlier:
                kind = "the partition" if len(earlier) == 1 else f"the {plural(len(earlier), 'partition')}"
                yield number, count, median(earlier), f"in {kind} before it"
