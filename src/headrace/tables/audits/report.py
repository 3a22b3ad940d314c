"""The results of a table's audit: how they are described, stored and read.

A status reads them, so this module loads no engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from headrace.declare.audits import Severity
from headrace.kernel.counts import plural
from headrace.kernel.properties import AUDIT

if TYPE_CHECKING:
    from headrace.lake import Lake

__all__ = ["AuditReport", "AuditResult", "failing_table", "last_report", "read_report"]

_MAX_TEXT = 500  # characters of what a rule found


class AuditResult(msgspec.Struct, frozen=True):
    """What came of one rule.

    Attributes:
        rule: the rule, in words.
        kind: its kind, as OpenLineage names it: `schema`, `unique`, `foreign_key`, `freshness`, `row_count`.
        severity: what a failure does.
        passed: whether it held.
        what: what was found; "": nothing was wrong.
        failing: how many rows failed; 0 if the rule is not about single rows.
        columns: the columns that it names.
    """

    rule: str
    kind: str
    severity: Severity
    passed: bool
    what: str = ""
    failing: int = 0
    columns: list[str] = []

    @property
    def assertion(self) -> dict[str, object]:
        """As an assertion of OpenLineage; without values of rows, because lineage may go to other servers."""
        column = {"column": self.columns[0]} if len(self.columns) == 1 else {}
        actual = {"actual": plural(self.failing, "row")} if self.failing else {}
        return {
            "assertion": self.kind,
            "name": self.rule,
            "success": self.passed,
            "severity": self.severity,
            **column,
            **actual,
        }

    @property
    def stops(self) -> bool:
        """Whether the table is not published because of it."""
        return not self.passed and self.severity == "error"


class AuditReport(msgspec.Struct, frozen=True):
    """What came of the audit of one table.

    Attributes:
        at: when it was, in microseconds since 1970.
        results: the rules, in the order of their declaration.
        code: the digest of the declared audits.
        references: other table → its snapshot that was read.
        kept: how many failing rows are kept.
        partitions: the names of the partitions of these rows.
        failing_partitions: the numbers of the partitions in which a rule of single rows does not hold; None:
            unknown.
    """

    at: int
    results: list[AuditResult]
    code: str = ""
    references: dict[str, int] = {}
    kept: int = 0
    partitions: list[str] = []
    failing_partitions: list[int] | None = None

    @property
    def passed(self) -> bool:
        """Whether every rule held."""
        return all(result.passed for result in self.results)

    @property
    def stops(self) -> bool:
        """Whether the table is not published."""
        return any(result.stops for result in self.results)

    @property
    def failures(self) -> list[str]:
        """What the rules that did not hold found."""
        return [_spell(result) for result in self.results if not result.passed]

    @property
    def refusals(self) -> list[str]:
        """What the rules found because of which the table is not published."""
        return [_spell(result) for result in self.results if result.stops]

    def encode(self) -> str:
        """As the property AUDIT."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str | None) -> AuditReport | None:
        """The report of the property AUDIT; None if there is none, or another version of Headrace wrote it."""
        try:
            return None if text is None else msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError:
            return None


def _spell(result: AuditResult) -> str:
    return f"{result.rule}: {result.what[:_MAX_TEXT]}"


def failing_table(table: str) -> str:
    """The name of the table with the failing rows of a table."""
    return f"headrace_failing_{table}"


def read_report(lake: Lake, table: str) -> AuditReport | None:
    """The last report of a table's audit, of published rows or of refused ones; None: it was never audited."""
    names = [name for name in (table, failing_table(table)) if lake.table_exists(name)]
    return last_report(lake.table(name).property(AUDIT) for name in names)


def last_report(texts: Iterable[str | None]) -> AuditReport | None:
    """The last of the reports in these properties AUDIT: of a table, and of the table of its failing rows."""
    reports = [report for text in texts if (report := AuditReport.decode(text)) is not None]
    return max(reports, key=lambda report: report.at, default=None)
