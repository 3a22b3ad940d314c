"""What the overview shows: topics, tables and models, from the log's and the lake's own metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from headrace import lake as lakes
from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events.ingest.position import stored_position
from headrace.flows.models.endpoint import describe
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.time import now
from headrace.lake import Lake
from headrace.log import Log
from headrace.projects.project import Project
from headrace.projects.running import find_up
from headrace.serving.release import Release, ReleaseFollower

__all__ = ["Overview", "TableLine", "TopicLine", "overview"]


@dataclass(frozen=True)
class TopicLine:
    """A topic: records on the log, good and refused ones in its table, and how many wait."""

    name: str
    events: int
    good: int
    refused: int
    lag: int


@dataclass(frozen=True)
class TableLine:
    """A table: its newest snapshot, rows, and how long ago that was; None: it was never made."""

    name: str
    snapshot: int | None
    rows: int
    age: timedelta | None


@dataclass
class Overview:
    """Topics, tables, the releases in force, and what could not be asked."""

    topics: list[TopicLine] = field(default_factory=list)
    tables: list[TableLine] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def overview(settings: Settings, project: Project) -> Overview:
    """The project as it is now. What is away is named and leaves its part empty."""
    made = Overview()
    try:
        log = logs.open(settings.log.url)
    except HeadraceError as error:
        made.problems.append(str(error))
        return made
    try:
        lake = lakes.open(settings)
        for contract in project.contracts.values():
            made.topics.append(_topic(log, lake, contract))
        made.tables = [_table(lake, name) for name in sorted({*project.tables, *lake.list_tables()})]
        releases = ReleaseFollower(log)
        releases.poll()
        made.problems += _endpoint_problems(settings)
        made.releases = [releases.in_force[model] for model in sorted(releases.in_force)]
    except HeadraceError as error:
        made.problems.append(str(error))
    finally:
        log.close()
    return made


def _endpoint_problems(settings: Settings) -> list[str]:
    """What is wrong with the endpoint that runs: it does not answer, or could not take a release up."""
    up = find_up(settings)
    if up is None:
        return []
    try:
        failed = describe(up).failed
    except Unavailable as error:
        return [str(error)]
    return [
        f"Release {failure.release} of {model} could not be put in place, the one before it answers:"
        f" {failure.why}"
        for model, failure in failed.items()
    ]


def _topic(log: Log, lake: Lake, contract: Contract) -> TopicLine:
    ends = log.end(contract.topic) if contract.topic in log.topics() else {}
    good = refused = 0
    read: dict[int, int] = {}
    if lake.table_exists(contract.table):
        table = lake.table(contract.table)
        head = table.current_snapshot()
        if head is not None:
            good = sum(table.rows_per_day(contract.time, head.id, {"_valid": True}).values())
            refused = head.rows - good
        position = stored_position(table)
        read = position.offsets if position is not None else {}
    lag = sum(max(0, end - read.get(partition, 0)) for partition, end in ends.items())
    return TopicLine(contract.topic, sum(ends.values()), good, refused, lag)


def _table(lake: Lake, name: str) -> TableLine:
    head = lake.table(name).current_snapshot() if lake.table_exists(name) else None
    if head is None:
        return TableLine(name, None, 0, None)
    return TableLine(name, head.id, head.rows, now() - head.at)
