"""status: what is stale and why, what runs now, how fresh everything is. It writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from headrace import lake as lakes
from headrace import lineage
from headrace import log as logs
from headrace.alerts.record import Alert, open_alerts
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events.contracts.description import describe_contract
from headrace.events.ingest.adoption import kept, refusal
from headrace.flows.build.context import BuildContext
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.preview import plan_build
from headrace.flows.build.project_code import read_project_code
from headrace.flows.events.drop_table import undeclared_tables
from headrace.flows.models.endpoint import describe
from headrace.flows.models.release import (
    ChampionMismatch,
    MovedAlias,
    find_champion_mismatches,
    find_moved_aliases,
)
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.lock import find_holder
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import UNDECLARED_FIELDS
from headrace.kernel.time import now
from headrace.lake import Lake
from headrace.lineage.store import Health
from headrace.log import Log
from headrace.projects.project import Project, load_project
from headrace.projects.running import Up, find_up
from headrace.serving.models import ReleaseFailure
from headrace.serving.spool import find_oversized

__all__ = ["Stale", "Status", "TableStatus", "TopicStatus", "status"]


@dataclass(frozen=True)
class Stale:
    """A stage that a build would run.

    Attributes:
        stage: its name.
        reasons: (kind, what) of each: code, input, parameter, contract, lock, output, upstream,
            state, new.
    """

    stage: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TopicStatus:
    """A topic: how many events are on the log, and how many of them are not ingested yet.

    Attributes:
        topic, events, lag: as said.
        extra: field that the contract does not name, and that is kept in `_extra` → how many events carried it.
        contract: what is to be known of an edited contract that ingest has not taken up, or None.
    """

    topic: str
    events: int
    lag: int
    extra: dict[str, int] = field(default_factory=dict)
    contract: str | None = None


@dataclass(frozen=True)
class TableStatus:
    """A table: its rows and when its newest snapshot was made; None: it was never made."""

    table: str
    rows: int | None
    at: datetime | None
    age: timedelta | None


@dataclass(frozen=True)
class Status:
    """The state of a project on a profile.

    Attributes:
        project, profile: which.
        stale: what a build would run, in order.
        blocked: why that cannot be said (no events yet, a source's file is gone, ...), or None.
        held: model → when newer inputs, held back for its refresh, will be taken.
        topics, tables: how fresh they are.
        undeclared: tables that a build made and that nothing declares any more.
        alerts: the alerts that are open, the oldest first.
        oversized: how many predictions were answered and are now larger than their topic takes.
        moved: aliases that somebody moved by hand: traffic goes by the release, not by them.
        failed: model → the release that the running endpoint could not take up; the one before answers.
        silent: why the endpoint of the running `up` cannot be asked, or None.
        released: champions that are other versions than the last build released, by hand or for another commit.
        lineage: events dropped, and endpoints that do not take them (lineage.Store.health); None: nothing
            was recorded yet.
        building: the process of a running build, or None.
        up: the running `up`, or None.
    """

    project: str
    profile: str
    stale: tuple[Stale, ...]
    blocked: str | None
    held: dict[str, datetime]
    topics: tuple[TopicStatus, ...]
    tables: tuple[TableStatus, ...]
    undeclared: tuple[str, ...]
    alerts: tuple[Alert, ...]
    oversized: int
    moved: tuple[MovedAlias, ...]
    failed: dict[str, ReleaseFailure]
    silent: str | None
    released: tuple[ChampionMismatch, ...]
    lineage: Health | None
    building: int | None
    up: Up | None


def status(settings: Settings) -> Status:
    """What is stale and why, what runs, how fresh it is.

    Raises:
        ProjectError: the project is wrong.
        Unavailable: the catalog or the log is away.
    """
    project = load_project(settings, without=("feast",))  # so without its models
    code = read_project_code(Pointers(settings.root))
    models = [] if code is None else list(code.models)
    stale: tuple[Stale, ...] = ()
    blocked = None
    try:
        stale = tuple(
            Stale(one.stage.name, tuple((r.kind, r.what) for r in one.reasons))
            for one in plan_build(settings)
            if one.reasons
        )
    except (ProjectError, Unavailable) as error:  # a source's file is gone, a topic has no events yet
        blocked = str(error)
    up = find_up(settings)
    failed, silent = _failed_releases(up)
    lake = lakes.open(settings)
    log = logs.open(settings.log.url)
    try:
        topics = tuple(_topic(project, lake, log, name) for name in project.contracts)
        alerts = tuple(open_alerts(log, lake))
    finally:
        log.close()
    return Status(
        project=settings.project,
        profile=settings.profile_name,
        stale=stale,
        blocked=blocked,
        held=_held(settings),
        topics=topics,
        tables=tuple(_table(lake, name) for name in _tables(project)),
        undeclared=tuple(undeclared_tables(project, lake)),
        alerts=alerts,
        oversized=len(find_oversized(settings.place("serving", "spool"))),
        moved=_moved(settings),
        failed=failed,
        silent=silent,
        released=find_champion_mismatches(settings, models),
        lineage=_lineage(settings),
        building=_building(settings),
        up=up,
    )


def _topic(project: Project, lake: Lake, log: Log, name: str) -> TopicStatus:
    if name not in log.topics():
        return TopicStatus(name, 0, 0)
    table = project.contracts[name].table
    made = lake.table(table) if lake.table_exists(table) else None
    position = None if made is None else made.position("ingest")
    extra = json.loads((None if made is None else made.property(UNDECLARED_FIELDS)) or "{}")
    read = position.offsets if isinstance(position, LogPosition) else {}
    lag = sum(logs.lag(log, name, read).values())
    return TopicStatus(
        name, sum(log.end(name).values()), lag, extra, _contract_note(project.contracts[name], lake)
    )


def _contract_note(contract: Contract, lake: Lake) -> str | None:
    """Whether the contract differs from the one that the topic's table last had, and what follows."""
    old, new = kept(contract, lake), describe_contract(contract)
    if old is None or old["fingerprint"] == new["fingerprint"]:
        return None
    error = refusal(contract, old, new)
    if error is not None:
        return f"ingest refuses its contract: {error}"
    return "its contract was edited; ingest takes that up when it starts next: headrace ingest --until-end"


def _tables(project: Project) -> list[str]:
    return [*(one.table for one in project.contracts.values()), *project.tables]


def _table(lake: Lake, name: str) -> TableStatus:
    head = lake.table(name).current_snapshot() if lake.table_exists(name) else None
    if head is None:
        return TableStatus(name, None, None, None)
    return TableStatus(name, head.rows, head.at, now() - head.at)


def _held(settings: Settings) -> dict[str, datetime]:
    try:
        return BuildContext(settings).next_refreshes()
    except ProjectError:  # nothing was built yet
        return {}


def _failed_releases(up: Up | None) -> tuple[dict[str, ReleaseFailure], str | None]:
    """The releases that the endpoint could not take up; why it cannot be asked, or None."""
    if up is None:
        return {}, None
    try:
        return describe(up).failed, None
    except Unavailable as error:
        return {}, error.what


def _moved(settings: Settings) -> tuple[MovedAlias, ...]:
    try:
        return tuple(find_moved_aliases(settings))
    except Unavailable:  # MLflow is away, which doctor tells; status is not to fail for it
        return ()


def _lineage(settings: Settings) -> Health | None:
    if not settings.place("lineage.db").is_file():
        return None
    store = lineage.open(settings)
    try:
        return store.health(settings.lineage.endpoints)
    finally:
        store.close()


def _building(settings: Settings) -> int | None:
    """The process that holds the build's lock."""
    text = find_holder(settings.place("build.lock"))
    return int(text) if text else None
