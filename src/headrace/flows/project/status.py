"""status: says what is stale and why, what runs now, and how fresh everything is. Writes nothing.

The command line, the console and `headrace.project().status()` show the same record. It is read from files, the
ends of the log and the tables' metadata. The project's modules and the engines are loaded only after an edit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from headrace.alerts.record import TABLE as ALERTS
from headrace.alerts.record import Alert, has_forgotten, open_alerts
from headrace.config.settings import Settings
from headrace.features.online import filled_views
from headrace.flows.build.context import BuildContext
from headrace.flows.build.project_code import read_project_code
from headrace.flows.build.unchanged import is_unchanged
from headrace.flows.models.aliases import (
    ChampionMismatch,
    MovedAlias,
    find_champion_mismatches,
    find_moved_aliases,
)
from headrace.flows.models.deployed import DeployedStatus, read_deployed
from headrace.flows.models.endpoint import EndpointReport, describe
from headrace.flows.project.freshness import TableStatus, TopicStatus, table_status, topic_status
from headrace.flows.project.next_step import find_next_step
from headrace.flows.project.schedules import ScheduleStatus, schedule_status
from headrace.flows.project.status_html import status_html, summarize_status
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.kernel.lock import find_holder
from headrace.kernel.properties import CODE, CONTRACT
from headrace.kernel.secrets import clean_text
from headrace.lake.table_state import TableState, read_table_states
from headrace.lake.visible import TABLE as VISIBLE
from headrace.lineage.store import Health
from headrace.projects.running import Up, find_up
from headrace.serving.mlflow_models.model_set import ModelSet, ModelSetFollower
from headrace.serving.models import ReleaseFailure
from headrace.serving.release import Release, ReleaseFollower
from headrace.serving.slots import REPLICAS, count_slots
from headrace.serving.spool import check_spool, find_oversized
from headrace.tables.audits.report import failing_table
from headrace.workspace import Workspace

if TYPE_CHECKING:
    from headrace.flows.models.canary import CanaryReview

__all__ = ["StaleStage", "Status", "status"]

T = TypeVar("T")


class StaleStage(Struct, frozen=True):
    """A stage that a build would run.

    Attributes:
        stage: its name.
        reasons: (kind, text) of each reason. The kinds are those of flows.build.reasons.
    """

    stage: str
    reasons: tuple[tuple[str, str], ...]

    def describe_reasons(self) -> str:
        """The reasons in one line."""
        return "; ".join(f"{kind}: {reason}" for kind, reason in self.reasons)


class Status(Struct, frozen=True):
    """The state of a project on a profile.

    Attributes:
        project, profile: their names.
        problems: why the log, the catalog or another service cannot be reached; what depends on it is empty.
        stale: what a build would run, in order.
        blocked: why that is unknown (no events yet, a source has no files, ...), or None.
        next_step: what to write or to run next in a project that is not whole yet; None: nothing is missing.
        waiting: model → when it will take the newer inputs that its refresh delays.
        topics: how far each topic's table is behind it.
        tables: how fresh each table is; the declared ones first, in the order of the build.
        undeclared: tables that a build made and that are no longer declared.
        alerts: the open alerts, the oldest first.
        oversized: how many predictions were answered and are larger than their topic accepts.
        releases: the releases in force, by model.
        canaries: model → its canary with what will be done with it, or why that is unknown.
        deployed: the MLflow models that are deployed, by name.
        moved_aliases: aliases that do not name the released version: they were moved by hand, or a release was
            interrupted. Traffic follows the release, not the alias.
        failed_releases: model → the release that the running endpoint could not activate; the previous one
            answers.
        unfilled: model → why the running endpoint cannot answer for it: a view of its release has no values.
        replicas: how many replicas of the predict endpoint there are.
        endpoint_error: why the endpoint of the running `up` does not answer, or None.
        champion_mismatches: champions that are not the version that the last build of this commit released.
        lineage: dropped events, and endpoints that do not accept events (lineage.Store.health); None: nothing
            was recorded yet.
        schedules: the builds that `up` runs by itself.
        building: the process id of a running build, or None.
        up: the running `up`, or None.
    """

    project: str
    profile: str
    problems: tuple[str, ...]
    stale: tuple[StaleStage, ...]
    blocked: str | None
    next_step: str | None
    waiting: dict[str, datetime]
    topics: tuple[TopicStatus, ...]
    tables: tuple[TableStatus, ...]
    undeclared: tuple[str, ...]
    alerts: tuple[Alert, ...]
    oversized: int
    releases: dict[str, Release]
    canaries: dict[str, CanaryReview | str]
    deployed: tuple[DeployedStatus, ...]
    moved_aliases: tuple[MovedAlias, ...]
    failed_releases: dict[str, ReleaseFailure]
    unfilled: dict[str, str]
    replicas: int
    endpoint_error: str | None
    champion_mismatches: tuple[ChampionMismatch, ...]
    lineage: Health | None
    schedules: tuple[ScheduleStatus, ...]
    building: int | None
    up: Up | None

    def __repr__(self) -> str:
        return f"<status of {self.project} on profile {self.profile}: {summarize_status(self)}>"

    def _repr_html_(self) -> str:
        """The status for a notebook."""
        return status_html(self)


class _Declared(Struct, frozen=True):
    """The declarations that a status needs.

    Attributes:
        topics: topic → its table.
        tables: the names of the tables, in the order of the build.
        models: the names of the models.
        contracts: topic → the digest of its contract.
    """

    topics: Mapping[str, str]
    tables: tuple[str, ...]
    models: tuple[str, ...]
    contracts: Mapping[str, str]


class _OnLog(Struct, frozen=True):
    """What a status reads from the log."""

    topics: tuple[TopicStatus, ...] = ()
    alerts: tuple[Alert, ...] = ()
    releases: Mapping[str, Release] | None = None
    deployed: ModelSet | None = None


def status(workspace: Workspace, *, load_features: bool = True) -> Status:
    """The state of the project: what is stale and why, what runs, how fresh it is.

    Args:
        workspace: the project to work on.
        load_features: whether to compile features that were edited since the last build, which loads Feast.
            If not, `blocked` says that the code was edited.

    Raises:
        ProjectError: the project is wrong.
    """
    problems: list[str] = []
    settings, context = workspace.settings, BuildContext(workspace)
    stale, blocked, waiting = _find_stale(context, load_features)
    declared = _read_declared(context)
    read = _try(problems, lambda: _read_tables(workspace))
    (heads, waiting_tables), is_known = read or ({}, {}), read is not None
    on_log = _try(problems, lambda: _read_log(workspace, declared, heads, is_known=is_known)) or _OnLog()
    if not settings.online.is_local:
        _try(problems, lambda: filled_views(settings))
    _try(problems, lambda: check_spool(settings.place("serving", "spool"), settings.serving.spool_limit))
    health = _try(problems, lambda: _lineage_health(workspace))
    releases = dict(on_log.releases or {})
    moved_aliases = _try(problems, lambda: find_moved_aliases(workspace, releases.values()))
    built = [releases[model] for model in declared.models if model in releases]
    up, names = find_up(settings), [*declared.topics.values(), *declared.tables]
    endpoint, endpoint_error = _ask_endpoint(settings, up)
    tables = _describe_tables(names, heads, waiting_tables, is_known=is_known)
    deployed = read_deployed(settings, on_log.deployed, is_running=up is not None)
    next_step = find_next_step(settings.project, on_log.topics, tables, is_running=up is not None)
    return Status(
        project=settings.project,
        profile=settings.profile_name,
        problems=tuple(problems),
        stale=stale,
        blocked=blocked,
        next_step=None if problems or deployed else next_step,
        waiting=waiting,
        topics=on_log.topics,
        tables=tables,
        undeclared=tuple(name for name, head in heads.items() if name not in names and CODE in head.properties),
        alerts=on_log.alerts,
        oversized=len(find_oversized(settings.place("serving", "spool"))),
        releases=releases,
        canaries=_review_canaries(workspace, releases),
        deployed=deployed,
        moved_aliases=tuple(moved_aliases or ()),
        failed_releases=endpoint.failed,
        unfilled=endpoint.unfilled,
        replicas=count_slots(settings.place("serving", REPLICAS)),
        endpoint_error=endpoint_error,
        champion_mismatches=tuple(find_champion_mismatches(settings, built)),
        lineage=health,
        schedules=schedule_status(settings),
        building=_building(settings),
        up=up,
    )


def _try(problems: list[str], read: Callable[[], T]) -> T | None:
    """What `read` returns; None if it fails, which is then one of the problems."""
    try:
        return read()
    except HeadraceError as error:
        problems.append(str(error))
        return None


def _read_tables(workspace: Workspace) -> tuple[dict[str, TableState], dict[str, str]]:
    """The tables as readers see them, and why readers do not see the newest snapshot of some."""
    newest = read_table_states(workspace.lake)
    newest.pop(VISIBLE, None)
    return workspace.visible.states(newest)


def _describe_tables(
    names: Sequence[str], heads: Mapping[str, TableState], waiting: Mapping[str, str], *, is_known: bool
) -> tuple[TableStatus, ...]:
    """The declared tables with these names, then the others of the lake."""
    declared = [
        table_status(
            name,
            heads.get(name),
            declared=True,
            is_known=is_known,
            waiting=waiting,
            failing=heads.get(failing_table(name)),
        )
        for name in names
    ]
    others = [table_status(name, heads[name], declared=False) for name in heads if name not in names]
    return (*declared, *others)


def _review_canaries(workspace: Workspace, releases: Mapping[str, Release]) -> dict[str, CanaryReview | str]:
    canaries = [release for release in releases.values() if release.canary is not None]
    if not canaries:
        return {}
    from headrace.flows.models.canary import review_each  # reads predictions and outcomes

    return review_each(workspace, canaries)


def _find_stale(
    context: BuildContext, load_features: bool
) -> tuple[tuple[StaleStage, ...], str | None, dict[str, datetime]]:
    """What a build would run, why that is unknown, and which models wait for their refresh."""
    if not load_features and context.recorded_code is None:
        return (), "the project's code is newer than the last build: headrace status shows what is stale", {}
    try:
        stale = () if is_unchanged(context.workspace) else _plan(context.workspace)
    except (ProjectError, Unavailable) as error:  # a source has no files, a topic has no events yet
        return (), str(error), {}
    except OSError as error:  # the disk is full
        return (), clean_text(error.strerror or str(error)), {}
    try:
        return stale, None, context.next_refreshes()
    except (ProjectError, Unavailable):  # nothing was built yet; or the catalog's problem is reported anyway
        return stale, None, {}


def _plan(workspace: Workspace) -> tuple[StaleStage, ...]:
    from headrace.flows.build.preview import plan_build  # it imports DVC

    return tuple(
        StaleStage(planned.stage.name, tuple((reason.kind, reason.what) for reason in planned.reasons))
        for planned in plan_build(workspace)
        if planned.reasons
    )


def _read_declared(context: BuildContext) -> _Declared:
    """The project's declarations: those that the last build recorded, if the code is still the same."""
    code = context.recorded_code
    if code is not None:
        return _Declared(code.topics, tuple(code.tables), tuple(code.models), code.contract_digests)
    from headrace.events.contracts.description import describe_contract

    project = context.workspace.project  # so without its models
    contracts = project.contracts.values()
    last = read_project_code(context.pointers)
    return _Declared(
        {contract.topic: contract.table for contract in contracts},
        tuple(project.tables),
        () if last is None else tuple(last.models),
        {contract.topic: describe_contract(contract)["fingerprint"] for contract in contracts},
    )


def _read_log(
    workspace: Workspace, declared: _Declared, heads: Mapping[str, TableState], *, is_known: bool
) -> _OnLog:
    log, notes = workspace.log, _contract_notes(workspace, declared, heads)
    topics = tuple(
        topic_status(log, topic, table, heads.get(table), notes.get(topic), is_known=is_known)
        for topic, table in declared.topics.items()
    )
    follower = ReleaseFollower(log)
    follower.poll()
    sets = ModelSetFollower(log)
    sets.poll()
    return _OnLog(topics, tuple(_open_alerts(workspace, heads)), follower.in_force, sets.in_force)


def _open_alerts(workspace: Workspace, heads: Mapping[str, TableState]) -> list[Alert]:
    if ALERTS not in heads or not has_forgotten(workspace.log):
        return open_alerts(workspace.log)
    return open_alerts(workspace.log, workspace.lake)


def _contract_notes(
    workspace: Workspace, declared: _Declared, heads: Mapping[str, TableState]
) -> dict[str, str]:
    """Topic → what ingest will do about its edited contract, if the topic's table has another one."""
    notes = {}
    for topic, table in declared.topics.items():
        text = heads[table].properties.get(CONTRACT) if table in heads else None
        old = None if text is None else json.loads(text)
        if old is not None and old["fingerprint"] != declared.contracts[topic]:
            notes[topic] = _contract_note(workspace, topic, old)
    return notes


def _contract_note(workspace: Workspace, topic: str, old: dict[str, Any]) -> str:
    from headrace.events.contracts.description import describe_contract
    from headrace.events.ingest.adoption import contract_refusal

    contract = workspace.project.contract(topic)
    error = contract_refusal(contract, old, describe_contract(contract))
    if error is not None:
        return f"ingest refuses its contract: {error}"
    return "its contract was edited; the next ingest adopts it: headrace ingest --until-end"


def _ask_endpoint(settings: Settings, up: Up | None) -> tuple[EndpointReport, str | None]:
    """What the endpoint reports, and why it does not answer, or None."""
    silent = EndpointReport({}, {})
    if up is None:
        return silent, None
    try:
        return describe(settings, up), None
    except (ProjectError, Unavailable) as error:
        return silent, error.what


def _lineage_health(workspace: Workspace) -> Health | None:
    if not workspace.settings.place("lineage.db").is_file():
        return None
    return workspace.lineage.health(workspace.settings.lineage.endpoints)


def _building(settings: Settings) -> int | None:
    """The process that holds the build's lock."""
    text = find_holder(settings.place("build.lock"))
    return int(text) if text else None
