"""headrace backtest"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.moment import Moment
from headrace.cli.output import prepare_output
from headrace.flows.models.backtest import BacktestReport
from headrace.flows.models.backtest import backtest as replay
from headrace.kernel.errors import CallError
from headrace.kernel.files import replace_file

__all__ = ["backtest"]


@command("backtest", example="headrace backtest purchase@4 --since 7d --by event_type")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--since", type=Moment(), help="From this time on: 2026-03-01, or 7d for seven days ago.")
@click.option("--until", type=Moment(), help="Before this time.")
@click.option(
    "--by",
    metavar="FIELD",
    help="Show each value of a key, a request field, a feature, `arm` or `version` by itself.",
)
@click.option("--limit", type=click.IntRange(1), help="Only so many of the newest requests.")
@click.option("--threshold", type=float, help="From where on a binary answer is yes; default: as declared.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A Parquet file for the answers to each request.",
)
def backtest(
    call: Call,
    version: str,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
    limit: int | None,
    threshold: float | None,
    output: Path | None,
) -> None:
    """Answer logged requests by MODEL@VERSION, and show how answers, decisions and metrics would differ."""
    model, _, number = version.rpartition("@")
    if not model or not number.isdecimal():
        raise CallError(f"{version!r} is not a version of a model", remedy="Write it as purchase@4")
    file = None if output is None else prepare_output(output)
    report = replay(
        call.workspace(), model, int(number), since=since, until=until, by=by, limit=limit, threshold=threshold
    )
    if file is not None:
        with replace_file(file) as draft:
            report.rows.write_parquet(draft)
        click.echo(f"Wrote {output}: {report.rows.height:,} answers.", err=True)
    if call.json:
        names = [name for name in BacktestReport.__struct_fields__ if name != "rows"]
        show.json({name: getattr(report, name) for name in names})
        return
    _print(report)


def _print(report: BacktestReport) -> None:
    click.echo(
        f"{report.model}@{report.version}: requests from {report.since:%F %T} to {report.until:%F %T} UTC"
    )
    rows = [
        (
            part.name,
            part.requests,
            part.equal,
            part.decisions_changed,
            *(
                None if value is None else f"{value:.4g}"
                for value in (part.mean_difference, part.greatest_difference)
            ),
        )
        for part in report.slices
    ]
    show.table(None, ["slice", "requests", "equal", "decisions changed", "mean difference", "greatest"], rows)
    _print_metrics(report)
    for reason, count in report.left_out.items():
        click.echo(f"  left out: {count:,}, {reason}")


def _print_metrics(report: BacktestReport) -> None:
    metrics = list(dict.fromkeys(name for part in report.slices for name in part.logged))
    rows = [
        (
            part.name,
            part.known,
            *(f"{part.logged[m]:.4f} → {part.replayed[m]:.4f}" if m in part.logged else None for m in metrics),
        )
        for part in report.slices
        if part.known
    ]
    if not rows:
        click.echo("No outcome of these requests is known.")
    else:
        show.table("By what happened, logged → replayed", ["slice", "outcomes", *metrics], rows)
