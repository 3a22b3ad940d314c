"""headrace build"""

from __future__ import annotations

import click

from headrace.cli.call import Call, command
from headrace.flows.build import BuildReport, StageReport
from headrace.flows.build import build as run_build

__all__ = ["build"]


@command("build", example="headrace build\nheadrace build clean_events --dry-run")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--dry-run", is_flag=True, help="Only show what would run, and why.")
@click.option(
    "--override", metavar="WHY", help="Release a version that the gate refuses; the reason is recorded."
)
def build(call: Call, targets: tuple[str, ...], dry_run: bool, override: str | None) -> None:
    """Bring tables, features and models up to date. Only stale stages run.

    A TARGET is a table, a model, or a stage of dvc.yaml; it is built with all that it needs.
    """
    report = run_build(
        call.workspace(),
        targets,
        dry_run=dry_run,
        override=override,
        progress=(lambda _: None) if call.json else _print_stage,
    )
    if call.json:
        from headrace.cli import show

        show.json(report)
    else:
        _print(report)


def _print_stage(stage: StageReport) -> None:
    if stage.seconds is None:
        return
    rows = "" if stage.rows is None else f"{stage.rows:,} rows"
    click.echo(f"  {stage.stage:<26} {rows:>16} {stage.seconds:8.2f} s  {stage.what}")


def _print(report: BuildReport) -> None:
    if report.nothing:
        click.echo(f"Nothing to do: everything is up to date ({report.seconds:.2f} s).")
    elif report.dry_run:
        click.echo("Would run:")
        for stage in report.stages:
            click.echo(f"  {stage.stage:<26} {stage.what}")
    else:
        many = "stages" if len(report.stages) != 1 else "stage"
        click.echo(f"Ran {len(report.stages)} {many} in {report.seconds:.1f} s.")
