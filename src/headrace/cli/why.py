"""headrace why"""

from __future__ import annotations

from collections.abc import Mapping

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.events.quarantine import text_of
from headrace.flows.trace.evidence import Origin
from headrace.flows.trace.why import ViewWhy, Why
from headrace.flows.trace.why import why as explain
from headrace.flows.trace.why_event import EventWhy, why_event
from headrace.lineage.graph import Node

__all__ = ["why"]


@verb(
    "why",
    example="headrace why 0199c0de-0000-7000-8000-000000000000\nheadrace why user_behaviour@0:4711",
)
@click.argument("id", metavar="ID|TOPIC@P:O")
@click.option(
    "--events", type=click.IntRange(1), default=20, show_default=True, help="Raw events to list a view."
)
def why(call: Call, id: str, events: int) -> None:
    """Say what made the prediction ID: raw events, features, version, training, snapshots, code.

    Each feature is made again from exactly what the online one had read, and compared.

    Of an event, named by its topic, log partition and offset: where it came in, whether it was admitted
    or why it was refused, its bytes, and what became of every replay.
    """
    event = why_event(call.settings(), id)
    if event is not None:
        _show_event(call, event)
        return
    found = explain(call.settings(), id, events=events)
    if call.json:
        show.json(found)
        return
    _print_answer(found)
    for view in found.views:
        _print_view(view)
    _print_version(found)
    for note in found.notes:
        click.echo(f"note: {note}")


def _show_event(call: Call, found: EventWhy) -> None:
    raw, encoding = (None, None) if found.raw is None else text_of(found.raw)
    if call.json:
        plain = {name: getattr(found, name) for name in found.__struct_fields__}
        headers = {name: text_of(value)[0] for name, value in (found.headers or {}).items()}
        key = None if found.key is None else text_of(found.key)[0]
        show.json(plain | {"raw": raw, "raw_encoding": encoding, "key": key, "headers": headers})
        return
    words = {"admitted": "was admitted", "refused": "waits in quarantine", "waiting": "is not judged yet"}
    click.echo(f"Event {found.topic}@{found.partition}:{found.offset} {words[found.state]}.")
    first = found.first != (found.partition, found.offset)
    rows: list[tuple[str, object]] = [
        ("arrived", f"{found.arrived_at:%Y-%m-%d %H:%M:%S.%f} UTC"),
        ("replay of", "{}:{}".format(*found.first) if first else None),
        ("key", None if found.key is None else show.readable(found.key)),
        *((f"header {name}", show.readable(value)) for name, value in (found.headers or {}).items()),
        ("bytes", None if found.raw is None else show.readable(found.raw)),
        ("values", None if found.values is None else _pairs(found.values)),
    ]
    show.table(None, ["", ""], [row for row in rows if row[1] is not None])
    if found.verdicts:
        listed = [
            (
                f"{one.partition}:{one.offset}",
                f"{one.arrived_at:%Y-%m-%d %H:%M:%S}",
                "admitted" if one.admitted else "refused",
                *(one.code, one.field, one.reason),
            )
            for one in found.verdicts
        ]
        show.table("What became of it", ["offset", "arrived", "", "code", "field", "reason"], listed)
    for note in found.notes:
        click.echo(f"note: {note}")


def _print_answer(found: Why) -> None:
    one = found.prediction
    click.echo(
        f"Prediction {one.id}: {one.model} version {one.version} predicted {_text(one.value)}"
        f" at {one.at:%Y-%m-%d %H:%M:%S.%f} UTC"
    )
    if found.release is not None:
        click.echo(f"Release {found.release.id}, by {found.release.by}: {found.release.why}")
    click.echo(
        "Every feature, made again, is what was served.\n"
        if found.equal
        else "Not every feature could be made again as it was served.\n"
    )


def _print_view(view: ViewWhy) -> None:
    words = {True: "equal", False: "differs", None: "not made again"}
    rows = [
        (one.name, _text(one.served), _text(one.again), words[one.equal], one.events) for one in view.features
    ]
    show.table(f"{view.name} ({view.kind})", ["feature", "served", "again", "", "events"], rows)
    if view.events:
        click.echo(f"  {view.total:,} raw events; the newest:")
        listed = [
            (
                f"{event.partition}:{event.offset}",
                f"{event.time:%Y-%m-%d %H:%M:%S}",
                f"{event.arrived_at:%Y-%m-%d %H:%M:%S}",
                _pairs(event.values or {}),
            )
            for event in view.events
        ]
        show.table(None, ["offset", "happened", "arrived", "as the view saw it"], listed)
    if view.row is not None:
        click.echo(
            f"  row of {view.row.table}, snapshot {view.row.snapshot}, from {view.row.time:%Y-%m-%d %H:%M}:"
        )
        click.echo(f"    {_pairs(view.row.values)}")
        for origin in view.row.origins:
            click.echo(f"    made from {_origin(origin)}")
    for note in view.notes:
        click.echo(f"  note: {note}")
    click.echo()


def _print_version(found: Why) -> None:
    version, made = found.version, found.version.made_from
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    rows = [
        ("version", f"{version.model} {version.version}{aliases}"),
        ("training run", made.run),
        ("MLflow run", version.mlflow_run or "not known"),
        ("training set", f"{made.table}, snapshot {made.snapshot}, {made.rows:,} rows"),
        *(("made from", f"{table}, snapshot {snapshot}") for table, snapshot in made.inputs.items()),
        ("code", made.code or "not known"),
        ("commit", made.commit or "in no git checkout"),
        ("source", made.source or "not kept"),
        ("plan", version.plan),
        ("gate", "passed" if made.gate else "refused"),
    ]
    show.table("Made by", ["", ""], rows)
    click.echo("Lineage:")
    _print_node(found.lineage, 1)


def _print_node(node: Node, depth: int) -> None:
    made = "" if node.run is None else f"  <- {node.run.job}"
    again = " (see above)" if node.repeated else ""
    click.echo(f"{'  ' * depth}{node.dataset.kind} {node.dataset.name}{made}{again}")
    for beyond in node.beyond:
        _print_node(beyond, depth + 1)


def _origin(origin: Origin) -> str:
    if origin.kind == "file":
        return f"files of {origin.name}, {origin.digest or 'digest not known'}"
    events = "events" if origin.events is None else f"{origin.events:,} events"
    days = "" if origin.first is None else f" of {origin.first}"
    until = "" if origin.last in (None, origin.first) else f" to {origin.last}"
    return f"{events} of topic {origin.name}{days}{until}"


def _pairs(values: Mapping[str, object]) -> str:
    return "  ".join(f"{name}={_text(value)}" for name, value in values.items() if value is not None)


def _text(value: object) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
