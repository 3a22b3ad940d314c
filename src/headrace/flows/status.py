"""status: what is stale and why, what runs now, how fresh everything is. It writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from headrace import lake as lakes
from headrace import lineage
from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.project import Project, load_project
from headrace.events.alerts.alerts import Alert, open_alerts
from headrace.events.ingest.facts import EXTRA
from headrace.flows.build.planning import next_due, planned
from headrace.flows.build.pointers import CODE, Pointers
from headrace.flows.build.work import Workshop
from headrace.flows.release import Moved, OtherChampion, moved_aliases, other_champions
from headrace.flows.running import Up, running
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.lock import find_holder
from headrace.kernel.position import LogPosition
from headrace.kernel.time import now
from headrace.lake import Lake
from headrace.lineage.store import Health
from headrace.log import Log

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
    """

    topic: str
    events: int
    lag: int
    extra: dict[str, int] = field(default_factory=dict)


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
        blocked: why that cannot be said yet (no events, ...), or None.
        held: model → when newer inputs, held back for its refresh, will be taken.
        topics, tables: how fresh they are.
        alerts: what is refused at too high a rate now, the oldest first.
        moved: aliases that somebody moved by hand: traffic goes by the release, not by them.
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
    alerts: tuple[Alert, ...]
    moved: tuple[Moved, ...]
    released: tuple[OtherChampion, ...]
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
    models = list((Pointers(settings.root).read(CODE) or {}).get("models", {}))
    stale: tuple[Stale, ...] = ()
    blocked = None
    try:
        stale = tuple(
            Stale(one.stage.name, tuple((r.kind, r.what) for r in one.reasons))
            for one in planned(settings)
            if one.reasons
        )
    except Unavailable as error:
        blocked = str(error)
    lake = lakes.open(settings)
    log = logs.open(settings.log_url)
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
        alerts=alerts,
        moved=_moved(settings, models),
        released=other_champions(settings, models),
        lineage=_lineage(settings),
        building=_building(settings),
        up=running(settings),
    )


def _topic(project: Project, lake: Lake, log: Log, name: str) -> TopicStatus:
    if name not in log.topics():
        return TopicStatus(name, 0, 0)
    table = project.contracts[name].table
    made = lake.table(table) if lake.exists(table) else None
    position = None if made is None else made.position("ingest")
    extra = json.loads((None if made is None else made.property(EXTRA)) or "{}")
    read = position.offsets if isinstance(position, LogPosition) else {}
    lag = sum(logs.lag(log, name, read).values())
    return TopicStatus(name, sum(log.end(name).values()), lag, extra)


def _tables(project: Project) -> list[str]:
    return [*(one.table for one in project.contracts.values()), *project.tables]


def _table(lake: Lake, name: str) -> TableStatus:
    head = lake.table(name).head() if lake.exists(name) else None
    if head is None:
        return TableStatus(name, None, None, None)
    return TableStatus(name, head.rows, head.at, now() - head.at)


def _held(settings: Settings) -> dict[str, datetime]:
    try:
        due = next_due(Workshop(settings))
    except ProjectError:  # nothing was built yet
        return {}
    return {model: datetime.fromisoformat(moment) for model, moment in due.items()}


def _moved(settings: Settings, models: list[str]) -> tuple[Moved, ...]:
    try:
        return tuple(moved_aliases(settings, models))
    except Unavailable:  # MLflow is away, which doctor tells; status is not to fail for it
        return ()


def _lineage(settings: Settings) -> Health | None:
    if not settings.place("lineage.db").is_file():
        return None
    store = lineage.open(settings)
    try:
        return store.health(settings.profile.lineage)
    finally:
        store.close()


def _building(settings: Settings) -> int | None:
    """The process that holds the build's lock."""
    text = find_holder(settings.place("build.lock"))
    return int(text) if text else None
