"""headrace why"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.flows.why import ViewWhy, Why
from headrace.flows.why import why as explain

__all__ = ["why"]


@verb("why", example="headrace why 0199c0de-0000-7000-8000-000000000000")
@click.argument("id")
@click.option(
    "--events", type=click.IntRange(1), default=20, show_default=True, help="Raw events to list a view."
)
def why(call: Call, id: str, events: int) -> None:
    """Say what made the prediction ID: raw events, features, version, training, snapshots, code.

    Each feature is made again from exactly what the online one had read, and compared.
    """
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


def _print_answer(found: Why) -> None:
    one = found.prediction
    click.echo(
        f"Prediction {one.id}: {one.model} version {one.version} said {one.score:.6g} at {one.at:%Y-%m-%d %H:%M:%S.%f} UTC"
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
        for event in view.events:
            click.echo(f"    {event}")
    if view.row is not None:
        click.echo(f"  row: {view.row}")
    for note in view.notes:
        click.echo(f"  note: {note}")
    click.echo()


def _print_version(found: Why) -> None:
    version = found.version
    rows = [
        (
            "version",
            f"{version.model} {version.version}"
            + (f" ({', '.join(version.aliases)})" if version.aliases else ""),
        ),
        ("MLflow run", version.mlflow_run or "not known"),
        ("plan", version.plan),
        *(
            (name, _text(value))
            for name, value in version.made_from.items()
            if isinstance(value, (str, int, float))
        ),
    ]
    show.table("Made by", ["", ""], rows)


def _text(value: object) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
