"""The failing rows of a table, kept as a table of the lake beside it, which each build replaces.

It has the columns of the table, and `_rule`, `_severity`, `_partition` (the name of the row's partition) and
`_audited_at`. So it is stored, kept and read like the table itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
import polars as pl

from headrace.declare.table import Table
from headrace.kernel.faults import reach
from headrace.kernel.properties import AUDIT
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.tables.audits.port import RULE, name_partitions
from headrace.tables.audits.report import AuditReport, failing_table

__all__ = ["keep_failing_rows"]

_logger = logging.getLogger(__name__)


def keep_failing_rows(
    lake: Lake, table: Table, report: AuditReport, rows: Mapping[str, pl.DataFrame]
) -> AuditReport:
    """Replaces the failing rows that are kept of the table. Never raises: a build does not depend on it.

    Args:
        lake: the lake.
        table: the declared table.
        report: the results of the audit.
        rows: rule → its failing rows, which may name a rule of their own in the column `_rule`.

    Returns:
        The report, with the number of the rows that are kept, and their partitions.
    """
    name = failing_table(table.name)
    try:
        if report.passed and not _has_rows(lake, name):
            return report
        frame = _describe_rows(table, report, rows)
        partitions = sorted(frame["_partition"].drop_nulls().unique())
        kept = msgspec.structs.replace(report, kept=frame.height, partitions=partitions)
        reach("tables.before_failing_rows")
        arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        properties = {AUDIT: kept.encode()}
        lake.ensure(name, arrow.schema, exact=True).overwrite(arrow, facts=properties, properties=properties)
    except Exception as error:
        _logger.warning("the failing rows of table %s could not be kept: %s", table.name, error)
        return report
    reach("tables.after_failing_rows")
    return kept


def _has_rows(lake: Lake, name: str) -> bool:
    if not lake.table_exists(name):
        return False
    snapshot = lake.table(name).current_snapshot()
    return snapshot is not None and snapshot.rows > 0


def _describe_rows(table: Table, report: AuditReport, rows: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    severities = {result.rule: result.severity for result in report.results}
    stamp = pl.lit(from_micros(report.at)).cast(pl.Datetime("us", "UTC"))
    parts = []
    for rule, part in rows.items():
        own = part[RULE] if RULE in part.columns else pl.Series([rule] * part.height, dtype=pl.String)
        bare = part.drop(RULE, strict=False)
        parts.append(
            bare.with_columns(
                own.alias(RULE),
                pl.lit(str(severities[rule])).alias("_severity"),
                name_partitions(table, bare).alias("_partition"),
                stamp.alias("_audited_at"),
            )
        )
    if parts:
        return pl.concat(parts, how="diagonal_relaxed")
    texts = dict.fromkeys((RULE, "_severity", "_partition"), pl.String())
    return pl.DataFrame(schema={**texts, "_audited_at": pl.Datetime("us", "UTC")})
