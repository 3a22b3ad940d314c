"""How a status shows itself in a notebook and in a terminal of Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headrace.kernel.counts import plural
from headrace.kernel.html import LIMIT, html_pairs, html_table

if TYPE_CHECKING:
    from headrace.flows.project.freshness import TableStatus
    from headrace.flows.project.status import Status

__all__ = ["status_html", "summarize_status"]

_TABLES = 7  # one of the overview, and those that `_tables_of` yields


def summarize_status(state: Status) -> str:
    """What runs, what a build would do, and what is wrong, in one line."""
    parts = ["up runs" if state.up else "nothing runs" if state.building is None else "a build runs"]
    if state.problems:
        parts.append(plural(len(state.problems), "problem"))
    if state.blocked:
        parts.append("cannot be built yet")
    elif state.stale:
        parts.append(plural(len(state.stale), "stale stage"))
    elif not state.next_step:
        parts.append("everything is up to date")
    if state.alerts:
        parts.append(plural(len(state.alerts), "open alert"))
    waiting = [topic for topic in state.topics if topic.lag is None or topic.lag]
    if waiting:
        parts.append(f"{plural(len(waiting), 'topic')} not ingested to the end")
    return "; ".join(parts)


def status_html(state: Status) -> str:
    """Tables of everything that `headrace status` prints."""
    limit = LIMIT // _TABLES
    title = f"{state.project} on profile {state.profile}: {summarize_status(state)}"
    tables = [html_pairs(title, _overview(state), limit=limit)]
    tables += [
        html_table(name, columns, rows, limit=limit) for name, columns, rows in _tables_of(state) if rows
    ]
    return "".join(tables)


def _overview(state: Status) -> Iterator[tuple[str, object]]:
    for problem in state.problems:
        yield "problem", problem
    if state.up is not None:
        yield "predict", f"{state.up.predict} ({plural(state.replicas, 'replica')})"
        yield "collector", state.up.collector
        yield "console", state.up.console
        yield "process", state.up.pid
    if state.building is not None:
        yield "build", f"runs in process {state.building}"
    if state.endpoint_error:
        yield "endpoint", state.endpoint_error
    if state.blocked:
        yield "cannot be built yet", state.blocked
    if state.next_step:
        yield "next", state.next_step
    if state.oversized:
        yield "predictions", f"{state.oversized:,} are larger than their topic accepts"
    if state.undeclared:
        yield "tables that are no longer declared", ", ".join(state.undeclared)
    if state.lineage is not None and state.lineage.dropped:
        yield "lineage", f"{plural(state.lineage.dropped, 'event')} dropped: {state.lineage.reason}"
    for endpoint in state.lineage.endpoints if state.lineage else ():
        if endpoint.failure or endpoint.refused:
            waiting = f"{endpoint.waiting:,} waiting, {endpoint.refused:,} refused"
            yield f"lineage to {endpoint.url}", f"{waiting}: {endpoint.failure or ''}"


def _tables_of(state: Status) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[object]]]]:
    """The title, the columns and the rows of each table below the overview."""
    yield "Stale", ("stage", "why"), [(stage.stage, stage.describe_reasons()) for stage in state.stale]
    yield "Models", ("model", "arms", "note"), [*_models(state)]
    deployed = [
        (model.name, f"{model.model} {model.version}", f"{model.state} {model.note or ''}")
        for model in state.deployed
    ]
    yield "Deployed MLflow models", ("name", "version", "state"), deployed
    topics = [
        (
            topic.topic,
            topic.describe(topic.events),
            "unknown" if topic.lag is None else topic.describe(topic.lag),
            topic.contract,
        )
        for topic in state.topics
    ]
    yield "Topics", ("topic", "events", "not ingested", "contract"), topics
    declared = [table for table in state.tables if table.declared]
    tables = [(table.table, table.rows, table.describe_age(), _note(table)) for table in declared]
    yield "Tables", ("table", "rows", "made", "note"), tables
    alerts = [(alert.severity, alert.subject, alert.reason, alert.why) for alert in state.alerts]
    schedules = [("schedule", schedule.name, schedule.trigger, schedule.due) for schedule in state.schedules]
    yield "Alerts and schedules", ("", "subject", "", ""), [*alerts, *schedules]


def _models(state: Status) -> Iterator[Sequence[object]]:
    """The arms and what is to know of each model."""
    names = dict.fromkeys([*state.releases, *state.failed_releases, *state.unfilled, *state.waiting])
    for name in names:
        notes = []
        if name in state.failed_releases:
            failure = state.failed_releases[name]
            notes.append(f"release {failure.release} could not be activated: {failure.why}")
        if name in state.unfilled:
            notes.append(f"answers 503: {state.unfilled[name]}")
        reviewed = state.canaries.get(name)
        if isinstance(reviewed, str):
            notes.append(f"canary: unknown: {reviewed}")
        elif reviewed is not None:
            notes.append(f"canary: {reviewed.decision.action}, because {reviewed.decision.why}")
        notes += [f"alias {moved.alias} was moved" for moved in state.moved_aliases if moved.model == name]
        notes += [
            f"champion is {mismatch.champion}, and the last build of this commit released {mismatch.built}"
            for mismatch in state.champion_mismatches
            if mismatch.model == name
        ]
        if name in state.waiting:
            notes.append(f"takes newer inputs from {state.waiting[name]:%F %R} UTC on")
        release = state.releases.get(name)
        arms = [
            f"{arm.name} {arm.version}{' (shadow)' if arm.shadow else f' {arm.weight:.4g}'}"
            for arm in (release.arms if release else ())
        ]
        yield name, ", ".join(arms), "; ".join(notes)


def _note(table: TableStatus) -> str:
    notes = [f"an audit refused: {rule}" for rule in table.refused]
    if table.waiting:
        notes.append(f"readers do not see its newest rows yet: {table.waiting}")
    if table.failed_rows:
        notes.append(f"leaves out {plural(table.failed_rows, 'row')} that its function fails on")
    return "; ".join(notes)
