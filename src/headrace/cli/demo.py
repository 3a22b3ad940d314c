"""headrace demo"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli.call import Call, verb

if TYPE_CHECKING:
    from headrace.demo.frame import DemoReport, Step

__all__ = ["demo"]


@verb("demo", example="headrace demo\nheadrace demo --data behaviour.csv")
@click.option("--events", default=200_000, show_default=True, help="How many events to generate.")
@click.option("--seed", default=7, show_default=True, help="Of the generator.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A CSV file of REES46 behaviour data instead, moved to end now.",
)
@click.option("--folder", type=click.Path(path_type=Path), metavar="DIR", help="Where; a scratch folder else.")
def demo(call: Call, events: int, seed: int, data: Path | None, folder: Path | None) -> None:
    """The shop, end to end: events, ingest, build, a live prediction, and the way back.

    It leaves nothing running. The folder stays, to go on with.
    """
    from headrace.cli import show
    from headrace.demo.frame import demo as run_demo

    if data is not None and not data.is_file():
        raise click.BadParameter(f"there is no file {data}", param_hint="--data")
    call.quiet()

    def tell(step: Step | None, text: str) -> None:
        if call.json:
            return
        if step is None:
            show.working(text)
        else:
            rows = "" if step.rows is None else f"{step.rows:,}"
            show.working("")
            click.echo(f"{step.name:<26}{rows:>10}  {step.seconds:7.2f} s  {step.what}")

    where = folder or Path(tempfile.mkdtemp(prefix="headrace-")) / "shop"
    report: DemoReport = run_demo(
        where, events=events, seed=seed, data=data, profile=call.profile, progress=tell
    )
    if call.json:
        show.json(report)
    else:
        _print(report, call.profile)
    if not report.held:
        click.get_current_context().exit(1)


def _print(report: DemoReport, profile: str | None) -> None:
    click.echo()
    told = {name: f"{value:.4f}" for name, value in report.metrics.items()}
    if report.base_rate is not None:
        told["base rate"] = f"{report.base_rate:.4f}"
    if report.best_auc is not None:
        told["best possible roc_auc"] = f"{report.best_auc:.4f}"
    click.echo("On the held-out test rows: " + ", ".join(f"{name} {value}" for name, value in told.items()))
    if report.refused:
        click.echo(f"The gate refused it, and it was released by override:\n{report.refused}")
    for check in report.checks:
        mark = click.style("yes", fg="green") if check.held else click.style("NO ", fg="red", bold=True)
        click.echo(f"  {mark} {check.what}")
    verdict = "All of it held" if report.held else "NOT all of it held"
    click.echo(f"{verdict}: {report.seconds:.0f} s, p50 of a prediction {report.p50_ms:.2f} ms. Go on with")
    options = f"--project {report.folder}" + (f" --profile {profile}" if profile else "")
    for then in ("up", "status", f"why {report.prediction}"):
        click.echo(f"  {_program()} {then} {options}")


def _program() -> str:
    """How this program is called from here: by its name where the PATH has it, else by its path."""
    called = Path(sys.argv[0])
    if shutil.which(called.name):
        return called.name
    return str(called.relative_to(Path.cwd()) if called.is_relative_to(Path.cwd()) else called)
