"""headrace demo"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli.call import Call, command
from headrace.cli.live import show_live

if TYPE_CHECKING:
    from headrace.demo.demo import DemoReport, Step

__all__ = ["demo"]


@command("demo", example="headrace demo\nheadrace demo shop --data behaviour.csv")
@click.argument("example", default="shop", metavar="[EXAMPLE]")
@click.option(
    "--rows",
    type=click.IntRange(1),
    metavar="N",
    help="How many rows to generate; default: the example's.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="The seed of the generator.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Real data to use instead of generated data: a file, or a folder if the example reads several files.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), metavar="DIR", help="The project's folder; default: a new one."
)
def demo(call: Call, example: str, rows: int | None, seed: int, data: Path | None, folder: Path | None) -> None:
    """Run EXAMPLE end to end, from its data to live predictions, and check its promises.

    The default is the shop. At the end no process is left running; the folder is kept for you to use.
    With --json, the steps are printed on standard error.
    """
    from headrace.cli import show
    from headrace.demo.demo import DemoOptions, run_demo

    call.quiet()

    def print_progress(step: Step | None, name: str) -> None:
        if step is None:
            show_live(name and f"{name} ...")
        else:
            count = "" if step.rows is None else f"{step.rows:,}"
            show_live("")
            click.echo(f"{step.name:<26}{count:>10}  {step.seconds:7.2f} s  {step.what}", err=call.json)

    report = run_demo(
        example,
        folder or Path(tempfile.mkdtemp(prefix="headrace-")) / example,
        DemoOptions(rows, seed, data),
        profile=call.profile,
        progress=print_progress,
    )
    _print(report, call.profile, to_stderr=call.json)
    if call.json:
        show.json(report)
    if not report.passed:
        click.get_current_context().exit(1)


def _print(report: DemoReport, profile: str | None, *, to_stderr: bool) -> None:
    def echo(line: str = "") -> None:
        click.echo(line, err=to_stderr)

    echo()
    for note in report.notes:
        echo(note)
    for check in report.checks:
        mark = click.style("yes", fg="green") if check.passed else click.style("NO ", fg="red", bold=True)
        echo(f"  {mark} {check.what}")
    verdict = "Every check passed" if report.passed else "NOT every check passed"
    echo(f"{verdict}, in {report.seconds:.0f} s. To continue:")
    options = f"--project {report.folder}" + (f" --profile {profile}" if profile else "")
    for arguments in report.commands:
        echo(f"  {_program()} {arguments} {options}")


def _program() -> str:
    """How to call this program from here: by name if it is on the PATH, else by its path."""
    program = Path(sys.argv[0])
    if shutil.which(program.name):
        return program.name
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)
