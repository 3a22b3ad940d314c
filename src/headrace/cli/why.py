"""headrace why"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.events.quarantine import text_of
from headrace.flows.trace.evidence import Origin
from headrace.flows.trace.why import ViewWhy, Why
from headrace.flows.trace.why import why as explain
from headrace.flows.trace.why_event import EventWhy, why_event
from headrace.kernel.counts import plural
from headrace.kernel.pairs import format_value, join_pairs
from headrace.lineage.graph import Node

__all__ = ["why"]


@command(
    "why",
    example="headrace why 0199c0de-0000-7000-8000-000000000000\nheadrace why user_behaviour@0:4711",
)
@click.argument("id", metavar="ID|TOPIC@P:O")
@click.option(
    "--events",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="N",
    help="How many raw events to list for each view.",
)
def why(call: Call, id: str, events: int) -> None:
    """Trace the prediction ID back: raw events, features, version, training, snapshots, code.

    Each feature is recomputed from exactly the data that the online feature had read, and compared.

    TOPIC@P:O names an event by its topic, log partition and offset. The answer shows where the event arrived,
    whether it was admitted or why it was refused, its bytes, and the outcome of every replay.
    """
    workspace = call.workspace()
    event = why_event(workspace, id)
    if event is not None:
        _show_event(call, event)
        return
    answer = explain(workspace, id, events=events)
    if call.json:
        show.json(answer)
        return
    _print_answer(answer)
    for view in answer.views:
        _print_view(view)
    _print_version(answer)
    for note in answer.notes:
        click.echo(f"note: {note}")


def _show_event(call: Call, event: EventWhy) -> None:
    if call.json:
        _print_event_json(event)
        return
    words = {"admitted": "was admitted", "refused": "waits in quarantine", "waiting": "was not ingested yet"}
    click.echo(f"Event {event.topic}@{event.partition}:{event.offset} {words[event.state]}.")
    is_replay = event.first != (event.partition, event.offset)
    rows: list[tuple[str, object]] = [
        ("arrived", f"{event.arrived_at:%Y-%m-%d %H:%M:%S.%f} UTC"),
        ("replay of", "{}:{}".format(*event.first) if is_replay else None),
        ("key", None if event.key is None else show.readable(event.key)),
        *((f"header {name}", show.readable(value)) for name, value in (event.headers or {}).items()),
        ("bytes", None if event.raw is None else show.readable(event.raw)),
        ("values", None if event.values is None else join_pairs(event.values)),
    ]
    show.table(None, ["", ""], [row for row in rows if row[1] is not None])
    if event.outcomes:
        outcomes = [
            (
                f"{outcome.partition}:{outcome.offset}",
                f"{outcome.arrived_at:%Y-%m-%d %H:%M:%S}",
                "admitted" if outcome.admitted else "refused",
                *(outcome.code, outcome.field, outcome.reason),
            )
            for outcome in event.outcomes
        ]
        show.table("Outcomes", ["offset", "arrived", "", "code", "field", "reason"], outcomes)
    for note in event.notes:
        click.echo(f"note: {note}")


def _print_event_json(event: EventWhy) -> None:
    raw, encoding = (None, None) if event.raw is None else text_of(event.raw)
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    headers = {name: text_of(value)[0] for name, value in (event.headers or {}).items()}
    key = None if event.key is None else text_of(event.key)[0]
    show.json(fields | {"raw": raw, "raw_encoding": encoding, "key": key, "headers": headers})


def _print_answer(answer: Why) -> None:
    prediction = answer.prediction
    outcome = f"predicted {format_value(prediction.value)}" if prediction.error is None else "failed to answer"
    click.echo(
        f"Prediction {prediction.id}: {prediction.model} version {prediction.version} {outcome}"
        f" at {prediction.at:%Y-%m-%d %H:%M:%S.%f} UTC"
    )
    if answer.release is not None:
        click.echo(f"Release {answer.release.id}, by {answer.release.by}: {answer.release.why}")
    click.echo(
        "Every recomputed feature equals the served one.\n"
        if answer.equal
        else "Not every feature could be recomputed to the served value.\n"
    )


def _print_view(view: ViewWhy) -> None:
    words = {True: "equal", False: "differs", None: "not recomputed"}
    features = [
        (
            feature.name,
            format_value(feature.served),
            format_value(feature.recomputed),
            words[feature.equal],
            feature.events,
        )
        for feature in view.features
    ]
    columns = ["feature", "served", "recomputed", "", "events"]
    show.table(f"{view.name} ({view.kind})", columns, features)
    if view.events:
        click.echo(f"  {plural(view.total, 'raw event')}; the newest:")
        events = [
            (
                f"{event.partition}:{event.offset}",
                f"{event.time:%Y-%m-%d %H:%M:%S}",
                f"{event.arrived_at:%Y-%m-%d %H:%M:%S}",
                join_pairs(event.values or {}),
            )
            for event in view.events
        ]
        show.table(None, ["offset", "happened", "arrived", "as the view reads it"], events)
    if view.row is not None:
        click.echo(
            f"  row of {view.row.table}, snapshot {view.row.snapshot},"
            f" valid from {view.row.time:%Y-%m-%d %H:%M}:"
        )
        click.echo(f"    {join_pairs(view.row.values)}")
        for origin in view.row.origins:
            click.echo(f"    its day was made from {_origin(origin)}")
    for note in view.notes:
        click.echo(f"  note: {note}")
    click.echo()


def _print_version(answer: Why) -> None:
    version, origin = answer.version, answer.version.origin
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    rows = [
        ("version", f"{version.model} {version.version}{aliases}"),
        ("training run", origin.run),
        ("MLflow run", version.mlflow_run or "unknown"),
        ("training set", f"{origin.table}, snapshot {origin.snapshot}, {plural(origin.rows, 'row')}"),
        *(("made from", f"{table}, snapshot {snapshot}") for table, snapshot in origin.inputs.items()),
        ("code", origin.code or "unknown"),
        ("commit", origin.commit or "not in a git checkout"),
        ("source", origin.source or "not in the bundle"),
        ("plan", version.plan),
        ("gate", "passed" if origin.gate else "refused"),
    ]
    show.table("Version", ["", ""], rows)
    click.echo("Lineage:")
    _print_node(answer.lineage, 1)


def _print_node(node: Node, depth: int) -> None:
    job = "" if node.run is None else f"  <- {node.run.job}"
    repeated = " (see above)" if node.repeated else ""
    click.echo(f"{'  ' * depth}{node.dataset.kind} {node.dataset.name}{job}{repeated}")
    for beyond in node.beyond:
        _print_node(beyond, depth + 1)


def _origin(origin: Origin) -> str:
    if origin.kind == "file":
        return f"files of {origin.name}, {origin.digest or 'digest unknown'}"
    events = "events" if origin.events is None else plural(origin.events, "event")
    days = "" if origin.first is None else f" of {origin.first}"
    until = "" if origin.last in (None, origin.first) else f" to {origin.last}"
    return f"{events} of topic {origin.name}{days}{until}"
