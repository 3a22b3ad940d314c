"""headrace status"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.canary_text import describe_canary, show_steps
from headrace.flows.models.aliases import MovedAlias
from headrace.flows.project.freshness import TableStatus
from headrace.flows.project.schedules import ScheduleStatus
from headrace.flows.project.status import Status
from headrace.flows.project.status import status as read_status
from headrace.kernel.counts import plural
from headrace.kernel.time import format_age, now

__all__ = ["status"]

_FAILURES = 3  # of a table
_PARTITIONS = 3  # that a refusal names


@command("status", example="headrace status\nheadrace status --profile prod --json")
def status(call: Call) -> int:
    """Show what is stale and why, what runs now, and how fresh everything is.

    Exit code 1 if the log, the catalog or the online store cannot be reached; the rest is shown nevertheless.
    """
    state = read_status(call.workspace())
    if call.json:
        show.json(state)
    else:
        _print(state)
    return 1 if state.problems else 0


def _print(state: Status) -> None:
    click.echo(f"{state.project} on profile {state.profile}: {_running(state)}\n")
    for problem in state.problems:
        click.echo(f"{click.style('problem:', fg='red', bold=True)} {problem}\n")
    _print_build(state)
    _print_schedules(state)
    _print_releases(state)
    _print_canaries(state)
    _print_deployed(state)
    _print_lineage(state)
    if state.oversized:
        click.echo(
            f"Predictions: {state.oversized:,} are larger than their topic accepts; see headrace doctor.\n"
        )
    _print_topics(state)
    rows = [(table.table, table.rows, table.describe_age()) for table in state.tables if table.declared]
    if rows:
        show.table("Tables", ["table", "rows", "made"], rows)
    for table in state.tables:
        if table.waiting:
            click.echo(f"  Readers do not see the newest rows of {table.table} yet: {table.waiting}")
        if table.refused:
            _print_refusal(table)
        if table.failed_rows:
            rows_fail = plural(table.failed_rows, "row")
            click.echo(f"  {table.table} leaves out {rows_fail} that its function fails on, for example:")
            for failure in table.failures[:_FAILURES]:
                click.echo(f"    {show.readable(failure)}")
    if state.undeclared:
        click.echo(f"\nTables that are no longer declared: {', '.join(state.undeclared)}")
        click.echo(f"  To delete one: headrace drop-table {state.undeclared[0]}")


def _print_refusal(table: TableStatus) -> None:
    names = table.refused_partitions
    more = f" and {len(names) - _PARTITIONS} more" if len(names) > _PARTITIONS else ""
    partitions = f" (partition {', '.join(names[:_PARTITIONS])}{more})" if names else ""
    click.echo(f"  An audit refused rows of {table.table}{partitions}:")
    for rule in table.refused:
        click.echo(f"    {show.readable(rule)}")
    seen = "no rows of it" if table.age is None else f"its rows of {format_age(table.age)}"
    click.echo(f"    Readers see {seen}. To see the failing rows: headrace check tables {table.table}")
    click.echo(f"    When the function or the data is corrected: headrace build {table.table}")


def _print_build(state: Status) -> None:
    if state.blocked:
        click.echo(f"Cannot be built yet: {state.blocked}\n")
    elif state.stale:
        rows = [(stage.stage, stage.describe_reasons()) for stage in state.stale]
        show.table("Stale", ["stage", "why"], rows)
        click.echo("  To bring them up to date: headrace build\n")
    elif not state.next_step:
        click.echo("Everything is up to date.\n")
    if state.next_step and not state.blocked:
        click.echo(f"{state.next_step}\n")
    for model, due in state.waiting.items():
        click.echo(f"Model {model} takes newer inputs from {due:%Y-%m-%d %H:%M} UTC on (its refresh).\n")


def _print_schedules(state: Status) -> None:
    if not state.schedules:
        return
    rows = [
        (schedule.name, schedule.trigger, ", ".join(schedule.build) or "all", *_describe_runs(schedule, state))
        for schedule in state.schedules
    ]
    show.table("Schedules", ["schedule", "when", "builds", "last run", "next run"], rows)
    for schedule in state.schedules:
        if schedule.runs and schedule.runs[0].error:
            click.echo(f"  {schedule.name} failed: {show.readable(schedule.runs[0].error)}")
    click.echo()


def _describe_runs(schedule: ScheduleStatus, state: Status) -> tuple[str, str]:
    """The last run and the next one."""
    if not schedule.runs:
        last = "never"
    else:
        run = schedule.runs[0]
        last = f"{run.outcome or 'running'}, started {format_age(now() - run.started)}"
    if schedule.due is None:
        return last, "never"
    if state.up is None:
        return last, "when headrace up runs"
    due = max(schedule.due, now())
    return last, f"{due:%Y-%m-%d %H:%M:%S} UTC"


def _print_releases(state: Status) -> None:
    for moved in state.moved_aliases:
        _print_moved_alias(moved)
    if state.endpoint_error:
        click.echo(
            f"{state.endpoint_error}.\n"
            "  Check the output of `headrace up`; restart it if the endpoint does not recover.\n"
        )
    for model, failure in state.failed_releases.items():
        click.echo(
            f"Release {failure.release} of {model} could not be activated; the endpoint answers by the"
            " one before, or with 503 if that cannot be activated either.\n"
            f"  {failure.why}\n  To go back: headrace rollback {model}\n"
        )
    for model, why in state.unfilled.items():
        click.echo(f"Model {model} answers 503.\n  {why}\n")
    for mismatch in state.champion_mismatches:
        model, built = mismatch.model, mismatch.built
        click.echo(
            f"Version {mismatch.champion} of {model} is champion; the last build of this commit released"
            f" version {built}.\n  To release that version: headrace release {model} champion={built}\n"
        )


def _print_canaries(state: Status) -> None:
    for model, reviewed in state.canaries.items():
        if isinstance(reviewed, str):
            click.echo(f"Canary of {model}: how it does is unknown: {reviewed}\n")
        else:
            click.echo(f"Canary of {model}: {describe_canary(reviewed)}")
            show_steps(reviewed)
            click.echo(f"  To see the evidence: headrace canary {model}\n")


def _print_deployed(state: Status) -> None:
    if not state.deployed:
        return
    rows = [
        (
            model.name,
            model.state,
            f"{model.model} {model.version}",
            model.python,
            model.replicas,
            f"{model.memory / 1e6:.0f} MB" if model.memory else "",
            model.restarts,
        )
        for model in state.deployed
    ]
    columns = ["name", "state", "version", "python", "replicas", "memory", "restarts"]
    show.table("Deployed MLflow models", columns, rows)
    for model in state.deployed:
        if model.note:
            click.echo(f"  {model.name}: {model.note}")
    click.echo()


def _print_moved_alias(moved: MovedAlias) -> None:
    names = "is deleted" if moved.current is None else f"names version {moved.current}"
    arm = "has no such arm" if moved.released is None else f"says version {moved.released}"
    share = ":0.1" if moved.alias == "challenger" else ""
    remedies = [
        f"To release version {version}: headrace release {moved.model} {moved.alias}={version}{share}"
        for version in (moved.current, moved.released)
        if version is not None
    ]
    click.echo(
        f"Alias {moved.alias} of {moved.model} {names}, and the release in force {arm}: the alias was moved by"
        " hand, or a release was interrupted."
    )
    click.echo("".join(f"  {remedy}\n" for remedy in remedies))


def _print_lineage(state: Status) -> None:
    if state.lineage is None:
        return
    if state.lineage.dropped:
        dropped = plural(state.lineage.dropped, "event", "was", "were")
        click.echo(f"Lineage: {dropped} dropped: {state.lineage.reason}\n")
    for endpoint in state.lineage.endpoints:
        if endpoint.failure or endpoint.refused:
            refused = f", {endpoint.refused:,} refused" if endpoint.refused else ""
            why = f": {endpoint.failure}" if endpoint.failure else ""
            waiting = plural(endpoint.waiting, "event", "waits", "wait")
            click.echo(f"Lineage to {endpoint.url}: {waiting}{refused}{why}\n")


def _print_topics(state: Status) -> None:
    rows = [
        (
            topic.topic,
            topic.describe(topic.events),
            "unknown" if topic.lag is None else topic.describe(topic.lag),
        )
        for topic in state.topics
    ]
    if rows:
        show.table("Topics", ["topic", "events", "not ingested"], rows)
        for topic in state.topics:
            if topic.contract:
                click.echo(f"  {topic.topic}: {topic.contract}")
            if topic.extra:
                counts = ", ".join(f"{name} {count:,}" for name, count in topic.extra.items())
                click.echo(f"  {topic.topic}: fields that the contract does not name are in _extra: {counts}")
        click.echo()
    alerts = [(alert.severity, alert.subject, alert.reason, alert.why) for alert in state.alerts]
    if alerts:
        show.table("Open alerts", ["severity", "subject", "reason", "why"], alerts)
        for command in dict.fromkeys(alert.look for alert in state.alerts):
            click.echo(f"  To see more: {command}")
        click.echo()


def _running(state: Status) -> str:
    parts = []
    if state.up is not None:
        predict = f"{state.up.predict} ({plural(state.replicas, 'replica')})"
        parts.append(f"up (process {state.up.pid}): predict {predict}, collector {state.up.collector}")
    if state.building is not None:
        parts.append(f"a build runs (process {state.building})")
    return "; ".join(parts) or "nothing runs"
