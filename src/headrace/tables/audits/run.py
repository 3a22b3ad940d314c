"""Runs the audits of a table before it is published: keeps what failed, records the results, and refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import polars as pl

from headrace.declare.audits import Audit, FreshWithin, References, RowsLikeBefore, Satisfies, Severity
from headrace.declare.reserved import FAILING_ROW_COLUMNS, refuse_reserved
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.faults import reach
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import AUDIT
from headrace.kernel.run import Dataset, run
from headrace.kernel.time import from_micros, now_micros
from headrace.lake import Lake, LakeTable, VisibleTables
from headrace.lake.files import WrittenFile
from headrace.tables.audits.failing import keep_failing_rows
from headrace.tables.audits.freshness import check_freshness
from headrace.tables.audits.keys import check_unique_keys, spread_key
from headrace.tables.audits.port import AuditScope, CheckAudit, RuleFailure, is_made_in_parts
from headrace.tables.audits.references import check_references
from headrace.tables.audits.report import AuditReport, AuditResult, read_report
from headrace.tables.audits.rows import RowsRefused
from headrace.tables.audits.rules import RuleError, check_rules, check_satisfies, group_rules
from headrace.tables.audits.volume import check_volume
from headrace.tables.partitions import partition_numbers, select_partitions
from headrace.tables.plan import RebuildPlan, partition_by

__all__ = ["PublishedRows", "TableAudit", "check_freshness_now", "is_audited", "read_references"]

_MAX_PARTITIONS = 200  # that are read one by one; if more have rows that fail, all rows are
_AUDITS: Mapping[type[Audit], tuple[str, CheckAudit]] = {
    FreshWithin: ("freshness", check_freshness),
    References: ("foreign_key", check_references),
    RowsLikeBefore: ("row_count", check_volume),
    Satisfies: ("schema", check_satisfies),
}
"""Declaration → the kind of its assertion (report.AuditResult), and what checks it."""


@attrs.frozen
class PublishedRows:
    """How many rows a table has before a build.

    Attributes:
        count: how many; None: nothing is published.
        partitions: the same by partition; empty if no audit compares numbers of rows, or if the table has no
            partitions, or others than declared.
        report: the report of their audit.
    """

    count: int | None = None
    partitions: Mapping[int, int] = {}
    report: AuditReport | None = None

    @classmethod
    def of(cls, lake: Lake, table: Table) -> PublishedRows:
        """Reads them; from metadata alone."""
        if not lake.table_exists(table.name):
            return cls()
        stored = lake.table(table.name)
        snapshot = stored.current_snapshot()
        if snapshot is None:
            return cls()
        by, partitions = partition_by(table), {}
        is_compared = any(isinstance(audit, RowsLikeBefore) for audit in table.audits)
        if is_compared and by and stored.partition_by() == by:  # it reads the snapshot's list of files
            partitions = stored.rows_per_partition(by[0], snapshot.id)
        return cls(snapshot.rows, partitions, AuditReport.decode(stored.property(AUDIT)))


def is_audited(table: Table) -> bool:
    """Whether a build audits the table."""
    return table.schema is not None or bool(table.audits)


def check_freshness_now(lake: Lake, table: Table) -> list[AuditResult]:
    """How fresh the rows are that readers see now: the results of the audits that the time alone can change.

    Raises:
        ProjectError: an audit does not fit the table.
    """
    audits = [audit for audit in table.audits if isinstance(audit, FreshWithin)]
    published = PublishedRows.of(lake, table) if audits else PublishedRows()
    if published.count is None:
        return []
    try:
        rows = VisibleTables(lake).scan(table.name)
    except CallError:  # it is not visible yet
        return []
    scope = TableAudit(lake, table, "", {}, published).scope_of(rows, rows, published.partitions)
    kind, check = _AUDITS[FreshWithin]
    return [_result(str(audit), kind, audit.severity, audit.columns, check(audit, scope)) for audit in audits]


def read_references(lake: Lake, table: Table, at: Mapping[str, int] | None) -> dict[str, int]:
    """Other table that the audits read → its snapshot: the newest, or that of `at`.

    Raises:
        CallError: it has no rows yet.
    """
    snapshots = {}
    for name in table.references:
        chosen = (at or {}).get(name)
        if chosen is None:
            current = lake.table(name).current_snapshot() if lake.table_exists(name) else None
            if current is None:
                raise CallError(
                    f"table {table.name} references {name!r}, which has no rows yet",
                    where=str(table.place),
                    remedy=f"headrace build {name}",
                )
            chosen = current.id
        snapshots[name] = chosen
    return snapshots


@attrs.frozen
class TableAudit:
    """The audit of one table in one build.

    Attributes:
        lake: the lake.
        table: the declared table.
        code: the digest of its declared audits.
        references: other table → the snapshot that is read.
        published: the table before the build.
    """

    lake: Lake
    table: Table
    code: str
    references: Mapping[str, int]
    published: PublishedRows

    @property
    def is_due(self) -> bool:
        """Whether published rows must be audited again: the declaration or a referenced table has changed, or
        they or later ones were refused. A warning stays as it is."""
        before, last = self.published.report, read_report(self.lake, self.table.name)
        if last is not None and last.stops:
            return True
        return bool(self.table.audits) if before is None else not self._is_same(before)

    def check_build(
        self, plan: RebuildPlan, stored: LakeTable, files: Sequence[WrittenFile]
    ) -> AuditReport | None:
        """Audits a table as the build will publish it; None: it has nothing to audit, and had nothing.

        Args:
            plan: the plan of the build.
            stored: the table in the lake.
            files: the new rows.

        Raises:
            Refused: a rule of severity `error` does not hold.
            ProjectError: an audit does not fit the table.
        """
        if not is_audited(self.table):
            return self._withdraw()
        if plan.whole:
            return self.check_whole(stored, files)
        new_rows = stored.scan_files(files)
        all_rows, rows, kept_counts = new_rows, new_rows, dict[int, int]()
        if self.published.count is not None:
            all_rows = pl.concat([new_rows, self._kept_rows(plan, stored)], how="diagonal_relaxed")
            gone = set(plan.partitions or ())
            kept_counts = {n: count for n, count in self.published.partitions.items() if n not in gone}
            failing = self._failing_partitions()
            still = [] if failing is None else self._read_partitions(stored, failing - gone)
            rows = all_rows if failing is None else pl.concat([new_rows, *still], how="diagonal_relaxed")
        scope = self.scope_of(all_rows, rows, _count_files(files) | kept_counts)
        total = sum(file.rows for file in files) + sum(kept_counts.values())
        return self._finish(attrs.evolve(scope, count=total), None)

    def check_whole(self, stored: LakeTable, files: Sequence[WrittenFile]) -> AuditReport | None:
        """Audits a table that will have the rows of these files alone. Raises and returns as `check_build`."""
        if not is_audited(self.table):
            return self._withdraw()
        rows = stored.scan_files(files)
        scope = self.scope_of(rows, rows, _count_files(files))
        return self._finish(attrs.evolve(scope, count=sum(file.rows for file in files)), None)

    def check_published(self, stored: LakeTable) -> AuditReport | None:
        """Audits the published rows again. Raises and returns as `check_build`."""
        if not is_audited(self.table):
            return self._withdraw()
        rows, snapshot = stored.scan(), stored.current_snapshot()
        scope = self.scope_of(rows, rows, self.published.partitions)
        return self._finish(
            attrs.evolve(scope, is_unchanged=True),
            None if snapshot is None else SnapshotPosition(stored.name, snapshot.id),
        )

    def _withdraw(self) -> AuditReport | None:
        """The report of a table that has nothing to audit any more: what its former audits found and kept would
        stand for ever. None: it was never audited, or this was done before."""
        last = read_report(self.lake, self.table.name)
        if last is None or not last.results:
            return None
        return keep_failing_rows(self.lake, self.table, AuditReport(now_micros(), [], self.code), {})

    def keep_refused(self, refused: RowsRefused) -> None:
        """Keeps the rows that the audit of the rows has refused, and records the result."""
        assert self.table.schema is not None
        rule = f"schema {self.table.schema.__name__}"
        result = AuditResult(rule, "schema", "error", False, refused.rules, refused.failing)
        report = AuditReport(now_micros(), [result], self.code, dict(self.references))
        frames = {} if refused.rows is None else {rule: refused.rows}
        self.record(keep_failing_rows(self.lake, self.table, report, frames), None)

    def _is_same(self, before: AuditReport) -> bool:
        return before.code == self.code and before.references == self.references

    def _failing_partitions(self) -> set[int] | None:
        """The partitions of the published table with rows that fail by themselves; None: they are unknown, or
        other rows may fail now."""
        before = self.published.report
        if before is None or not self._is_same(before):
            return None
        if before.failing_partitions is None:
            return set() if before.passed else None
        return set(before.failing_partitions)

    def _read_partitions(self, stored: LakeTable, numbers: set[int]) -> list[pl.LazyFrame]:
        """The published rows of these partitions."""
        partitioning = self.table.partition_by
        assert partitioning is not None, "only a table with partitions is made in part"
        column, rows = partitioning.column, stored.scan()
        return [select_partitions(rows, partitioning, column, n, n) for n in sorted(numbers)]

    def _kept_rows(self, plan: RebuildPlan, stored: LakeTable) -> pl.LazyFrame:
        """The rows of the partitions that the build does not make."""
        rows, partitioning = stored.scan(), self.table.partition_by
        assert partitioning is not None, "only a table with partitions is new_rows in part"
        numbers = partition_numbers(
            partitioning, partitioning.column, rows.collect_schema()[partitioning.column]
        )
        return rows.filter(~numbers.is_in(plan.partitions or []))

    def scope_of(self, all_rows: pl.LazyFrame, rows: pl.LazyFrame, counts: Mapping[int, int]) -> AuditScope:
        """What the audits check: these rows, and beside them what is published.

        Raises:
            ProjectError: the rows have a column that Headrace adds to failing rows.
        """
        refuse_reserved(
            all_rows.collect_schema(),
            FAILING_ROW_COLUMNS,
            "the failing rows of an audit",
            f"table {self.table.name} ({self.table.place})",
            "Give the column another name in the function, or declare no audits.",
        )
        before = self.published.report
        return AuditScope(
            table=self.table,
            all_rows=all_rows,
            rows=rows,
            partition_rows=counts,
            published_rows=self.published.partitions,
            count=self.published.count or 0,
            published_count=self.published.count,
            is_unchanged=False,
            previous={} if before is None else {result.rule: result for result in before.results},
            keys={name: self.lake.table(name).scan(at) for name, at in self.references.items()},
            now=from_micros(now_micros()),
        )

    def _finish(self, scope: AuditScope, position: SnapshotPosition | None) -> AuditReport:
        """Runs the audits, and keeps the failing rows. Results that refuse the rows are recorded here, others
        by the build, once they are published.

        Raises:
            Refused: a rule of severity `error` does not hold.
        """
        results, rows = [], {}
        partitions: frozenset[int] | None = frozenset()
        for rule, kind, severity, columns, failure in _check_all(scope):
            results.append(_result(rule, kind, severity, columns, failure))
            if failure is None:
                continue
            if failure.rows is not None:
                rows[rule] = failure.rows
            unknown = partitions is None or failure.partitions is None
            partitions = None if unknown else frozenset({*(partitions or ()), *(failure.partitions or ())})
        failing = None if partitions is None or len(partitions) > _MAX_PARTITIONS else sorted(partitions)
        report = AuditReport(
            now_micros(), results, self.code, dict(self.references), failing_partitions=failing
        )
        report = keep_failing_rows(self.lake, self.table, report, rows)
        if report.stops:
            self.record(report, position)
            raise self._refusal(report, rows, is_published=scope.is_unchanged)
        return report

    def record(self, report: AuditReport, position: SnapshotPosition | None) -> None:
        """Records the audit as a run of its own, which reads the table.

        A report that refuses nothing is to be recorded after the run that publishes the rows: before it, the
        table has no such snapshot.

        Args:
            report: its results; without any, nothing is recorded.
            position: the snapshot that has the rows; None: they are not published.
        """
        if not report.results:
            return
        reach("tables.before_audit_record")
        with run(f"audit {self.table.name}") as audit_run:
            assertions = [result.assertion for result in report.results]
            audit_run.add_input(Dataset("table", self.table.name, position, {"assertions": assertions}))
            audit_run.add_facts(failing_rows=report.kept)

    def _refusal(self, report: AuditReport, rows: Mapping[str, pl.DataFrame], *, is_published: bool) -> Refused:
        failures = "\n  ".join(f"{result.rule}: {result.what}" for result in report.results if result.stops)
        state = "published rows do not hold what is declared" if is_published else "the table is unchanged"
        has_rows = any(result.stops and rows.get(result.rule) is not None for result in report.results)
        kept = f"headrace check tables {self.table.name} shows the failing rows. " if has_rows else ""
        return Refused(
            f"the audit failed, {state}:\n  {failures}",
            where=f"table {self.table.name} ({self.table.place})",
            remedy=f'{kept}Correct the function or the data; or declare the audit with severity="warn", if such'
            " rows may be published.",
        )


def _count_files(files: Sequence[WrittenFile]) -> dict[int, int]:
    """Partition → its rows."""
    counts: dict[int, int] = {}
    for file in files:
        if file.partition:
            counts[file.partition[0]] = counts.get(file.partition[0], 0) + file.rows
    return counts


def _result(
    rule: str, kind: str, severity: Severity, columns: Sequence[str], failure: RuleFailure | None
) -> AuditResult:
    what, failing = ("", 0) if failure is None else (failure.what, failure.failing)
    return AuditResult(rule, kind, severity, failure is None, what, failing, list(columns))


_Check = tuple[str, str, Severity, list[str], RuleFailure | None]


def _check_all(scope: AuditScope) -> Iterator[_Check]:
    """The rules: each with its kind, its severity, its columns and what was found."""
    table = scope.table
    if table.schema is not None:
        name = table.schema.__name__
        yield f"schema {name}", "schema", "error", [], None  # the rows were checked when they were made
        if spread_key(table):
            key = spread_key(table)
            yield f"unique {', '.join(key)}", "unique", "error", key, check_unique_keys(scope)
        rules = group_rules(table.schema) if is_made_in_parts(table) else {}
        for rule, expression in rules.items():
            failure = _find(check_rules, {rule: expression}, scope)
            yield f"rule {name}.{rule}", "schema", "error", [], failure
    for audit in table.audits:
        kind, check = _AUDITS[type(audit)]
        failure = _find(check, audit, scope)
        yield str(audit), kind, audit.severity, list(audit.columns), failure


def _find(
    check: Callable[[Any, AuditScope], RuleFailure | None], declared: Any, scope: AuditScope
) -> RuleFailure | None:
    """What a check found; a rule that raises on the rows does not hold."""
    try:
        return check(declared, scope)
    except RuleError as error:
        return RuleFailure(str(error), partitions=None)
