"""headrace predict"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.moment import Moment
from headrace.flows.models.predict import predict as ask
from headrace.kernel.errors import CallError

__all__ = ["predict"]


@command("predict", example="headrace predict purchase user_id=1 product_id=2 price=9.9 event_type=view")
@click.argument("model")
@click.argument("values", nargs=-1, metavar="KEY=VALUE...")
@click.option("--explain", is_flag=True, help="Show the features as the model saw them too.")
@click.option("--as-of", type=Moment(), metavar="TIME", help="Answer as at 2026-03-01T12:00 (UTC), or 2h ago.")
@click.option("--version", type=click.IntRange(1), help="By this version; with --as-of only.")
def predict(
    call: Call,
    model: str,
    values: tuple[str, ...],
    explain: bool,
    as_of: datetime | None,
    version: int | None,
) -> None:
    """Ask the running endpoint for one prediction of MODEL."""
    given = _parse_values(values)
    answer = ask(call.settings(), model, given, explain=explain, as_of=as_of, version=version)
    if call.json:
        show.json(answer)
        return
    features = answer.pop("features", None)
    show.table(None, ["", ""], [(name, _text(value)) for name, value in answer.items()])
    if features:
        click.echo()
        show.table("features", ["name", "value"], [(name, _text(value)) for name, value in features.items()])


def _parse_values(texts: Iterable[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise CallError(f"{text!r} is not KEY=VALUE", remedy="Write it as user_id=1.")
        if name in values:
            raise CallError(f"{name!r} has two values: {values[name]!r} and {value!r}", remedy="Give it once.")
        values[name] = value
    return values


def _text(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
