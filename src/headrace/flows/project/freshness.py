"""Freshness: how far each topic's table is behind its topic, and when each table was written.

Only the ends of the log and the tables' metadata are read, never rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from msgspec import Struct, field, structs

from headrace import log as logs
from headrace.kernel.position import LogPosition, decode_position
from headrace.kernel.properties import AUDIT, FAILED_ROWS, POSITION, UNDECLARED_FIELDS
from headrace.kernel.time import format_age, now
from headrace.lake.table_state import TableState
from headrace.log import Log
from headrace.tables.audits.report import last_report
from headrace.tables.failures import read_failures
from headrace.workspace import Workspace

__all__ = ["TableStatus", "TopicStatus", "VerdictCounts", "count_verdicts", "table_status", "topic_status"]

_READER = "ingest"


class TopicStatus(Struct, frozen=True):
    """A topic, and how far its table is behind it.

    Attributes:
        topic, table: their names.
        events: how many events were ever appended.
        lag: how many events on the log are not in the table yet; None: unknown, because the catalog could not
            be read.
        is_exact: whether `events` and `lag` are counts. On Kafka they are differences of offsets, and the most
            that there may be (Log.is_dense); 0 is always exact.
        extra: field that the contract does not name, and that is stored in `_extra` → how many events have it.
        contract: what ingest will do about an edited contract; None if the table has the declared one.
    """

    topic: str
    table: str
    events: int
    lag: int | None
    is_exact: bool = True
    extra: dict[str, int] = field(default_factory=dict)
    contract: str | None = None

    def describe(self, count: int) -> str:
        """`events` or `lag` in words: `1,204`, or `≤ 1,204` if it is the most that there may be."""
        return f"{count:,}" if self.is_exact or not count else f"≤ {count:,}"


class TableStatus(Struct, frozen=True):
    """A table of the lake.

    Attributes:
        table: its name.
        declared: whether a contract or a table function of the project declares it. The others are training
            sets, Headrace's own topics, and tables that are no longer declared.
        snapshot, rows: the snapshot that readers see, and the number of rows in it; None: readers see none, or
            that is unknown.
        at, age: when that snapshot was written.
        failed_rows: how many rows of its input a rowwise function failed on; they are left out.
        failures: some of these rows, each with the error.
        is_known: False if the catalog could not be read, so that whether the table was made is unknown.
        waiting: why readers do not see its newest snapshot yet; None: they see it.
        refused: the rules by which the last audit refused rows, each with what it found; none: it did not.
        refused_partitions: the partitions of the rows that failed, as far as they are kept.
    """

    table: str
    declared: bool
    snapshot: int | None
    rows: int | None
    at: datetime | None
    age: timedelta | None
    failed_rows: int = 0
    failures: tuple[str, ...] = ()
    is_known: bool = True
    waiting: str | None = None
    refused: tuple[str, ...] = ()
    refused_partitions: tuple[str, ...] = ()

    def describe_age(self) -> str:
        """`age` in words, or why there is none."""
        if not self.is_known:
            return "unknown"
        if self.age is None:
            return "not visible yet" if self.waiting else "never"
        return format_age(self.age)


class VerdictCounts(Struct, frozen=True):
    """How many events of a topic's table are good, and how many were refused."""

    good: int
    refused: int


def topic_status(
    log: Log, topic: str, table: str, head: TableState | None, contract: str | None, *, is_known: bool = True
) -> TopicStatus:
    """The present state of a topic.

    Args:
        head: the state of the topic's table; None if it has none.
        contract: see TopicStatus.
        is_known: whether the catalog could be read.
    """
    if topic not in log.topics():
        return TopicStatus(topic, table, 0, 0)
    properties = {} if head is None else head.properties
    text = properties.get(POSITION + _READER)
    position = None if text is None else decode_position(text)
    offsets = position.offsets if isinstance(position, LogPosition) else {}
    end = log.end(topic)
    return TopicStatus(
        topic,
        table,
        events=sum(end.values()),
        lag=sum(logs.lag(log, topic, offsets, end).values()) if is_known else None,
        is_exact=log.is_dense,
        extra=json.loads(properties.get(UNDECLARED_FIELDS, "{}")),
        contract=contract,
    )


def table_status(
    name: str,
    head: TableState | None,
    *,
    declared: bool,
    is_known: bool = True,
    waiting: Mapping[str, str] | None = None,
    failing: TableState | None = None,
) -> TableStatus:
    """The present state of a table.

    Args:
        head: its state as readers see it; None if the lake does not have the table.
        is_known: whether the catalog could be read.
        waiting: table → why readers do not see its newest snapshot yet.
        failing: the state of the table of its failing rows; None if there is none.
    """
    why = (waiting or {}).get(name)
    states = (head, failing) if declared else ()  # the table of failing rows has the report of the declared one
    report = last_report(state.properties.get(AUDIT) for state in states if state is not None)
    status = TableStatus(name, declared, None, None, None, None, is_known=is_known, waiting=why)
    if report is not None and report.stops:
        status = structs.replace(
            status, refused=tuple(report.refusals), refused_partitions=tuple(report.partitions)
        )
    if head is None or head.snapshot is None or head.at is None:
        return status
    count, failures = read_failures(head.properties.get(FAILED_ROWS))
    return structs.replace(
        status,
        snapshot=head.snapshot,
        rows=head.rows,
        at=head.at,
        age=now() - head.at,
        failed_rows=count,
        failures=tuple(failures),
    )


def count_verdicts(
    workspace: Workspace, tables: Iterable[str], heads: Mapping[str, TableState]
) -> dict[str, VerdictCounts]:
    """Topic's table → its good and refused events, from the metadata of its files.

    This reads each table's list of files, which takes longer than the rest of a status.

    Raises:
        Unavailable: the lake cannot be reached.
    """
    lake = workspace.lake
    verdicts = {}
    for name in tables:
        head = heads.get(name)
        if head is None or head.snapshot is None:
            verdicts[name] = VerdictCounts(0, 0)
            continue
        table = lake.table(name)
        (_, _), (time, _) = table.partition_by()
        good = sum(table.rows_per_partition((time, "day"), head.snapshot, {"_valid": True}).values())
        verdicts[name] = VerdictCounts(good, head.rows - good)
    return verdicts
