"""headrace export TARGET, with one subcommand for each registered target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headrace.cli.call import Call, command, group
from headrace.cli.output import prepare_output
from headrace.export import TARGETS
from headrace.export.target import Target
from headrace.kernel.files import write_file

__all__ = ["export"]


@group("export", example="headrace export airflow --output dags/shop.py")
def export() -> None:
    """Write files that another tool needs to run the project."""


def _make_command(target: Target) -> click.Command:
    def run(call: Call, output: Path | None, **options: Any) -> None:
        result = target.write(call.settings(), **options)
        if output is not None:
            write_file(prepare_output(output), result.text)
        if call.json:
            from headrace.cli import show

            shown = {"text": result.text} if output is None else {"file": output}
            show.json({**shown, "summary": result.summary})
        elif output is None:
            click.echo(result.text, nl=False)
        else:
            click.echo(f"Wrote {output}: {result.summary}.")

    run.__doc__ = target.help
    subcommand = command(target.name, example=target.example)(run)
    output = click.Option(
        ["--output"], type=click.Path(path_type=Path), metavar="FILE", help="Write to FILE; default: print it."
    )
    own = [
        click.Option(
            [f"--{option.name}"], metavar=option.metavar, is_flag=option.metavar is None, help=option.help
        )
        for option in target.options
    ]
    subcommand.params[:0] = [output, *own]
    return subcommand


for target in TARGETS:
    export.add_command(_make_command(target))
