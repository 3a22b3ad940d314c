"""headrace build"""

from __future__ import annotations

from datetime import date

import click
from msgspec import Struct

from headrace.cli.call import Call, command
from headrace.cli.live import show_live
from headrace.flows.build import BuildReport, StageReport
from headrace.flows.build import build as run_build
from headrace.kernel.counts import plural
from headrace.tables.range import BuildRange

__all__ = ["build"]


@command("build", example="headrace build\nheadrace build clean_events --from 2026-11-01 --to 2026-11-30")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--dry-run", is_flag=True, help="Only show what would run, and why.")
@click.option(
    "--override", metavar="WHY", help="Release a version that the gate refuses; the reason is recorded."
)
@click.option("--full", is_flag=True, help="Make all of the target tables again, stale or not.")
@click.option("--from", "first", metavar="DAY", help="Make the partitions of one table from this day on.")
@click.option("--to", "last", metavar="DAY", help="The last day to make.")
def build(
    call: Call,
    targets: tuple[str, ...],
    dry_run: bool,
    override: str | None,
    full: bool,
    first: str | None,
    last: str | None,
) -> None:
    """Bring tables, features and models up to date. Only stale stages run.

    A TARGET is a table, a model, or a stage of dvc.yaml; it is built with all that it needs.
    """
    only = _choose(full, first, last)
    report = run_build(
        call.workspace(),
        targets,
        dry_run=dry_run,
        override=override,
        only=only,
        progress=(lambda _: None) if call.json else _Printer(is_announced=only is not None).print_stage,
    )
    if call.json:
        from headrace.cli import show

        show.json(report)
    else:
        _print(report)


def _choose(full: bool, first: str | None, last: str | None) -> BuildRange | None:
    if full and (first or last):
        raise click.UsageError("--full makes every day: leave out --from and --to.")
    if not (full or first or last):
        return None
    return BuildRange() if full else BuildRange(_day(first, date.min), _day(last, date.max))


def _day(text: str | None, default: date) -> date:
    try:
        return default if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a valid day: write it as 2026-11-03.") from error


class _Printer(Struct):
    """Prints the stages of a build as they run.

    Attributes:
        is_announced: whether to print what a stage will make; a terminal shows it anyway.
    """

    is_announced: bool

    def print_stage(self, stage: StageReport) -> None:
        """Prints a finished stage; of a running one, how far it is, on one line of a terminal."""
        if stage.seconds is not None:
            show_live("")
            rows = "" if stage.rows is None else plural(stage.rows, "row")
            click.echo(f"  {stage.stage:<26} {rows:>16} {stage.seconds:8.2f} s  {stage.what}")
        elif self.is_announced and stage.what.startswith("will make"):
            click.echo(f"{stage.stage}: {stage.what}")
        else:
            show_live(f"  {stage.stage:<26} {stage.what}")


def _print(report: BuildReport) -> None:
    if report.nothing:
        what = "the project declares no table yet" if report.is_empty else "everything is up to date"
        click.echo(f"Nothing to do: {what} ({report.seconds:.2f} s).")
        if report.is_empty:
            click.echo("  To see what to write first: headrace status")
    elif report.dry_run:
        click.echo("Would run:")
        for stage in report.stages:
            click.echo(f"  {stage.stage:<26} {stage.what}")
    else:
        click.echo(f"Ran {plural(len(report.stages), 'stage')} in {report.seconds:.1f} s.")
