"""headrace graph"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.output import prepare_output
from headrace.kernel.files import write_file

if TYPE_CHECKING:
    from headrace.flows.project.graph import ProjectGraph

__all__ = ["graph"]


@command("graph", example="headrace graph\nheadrace graph --format svg --output graph.svg")
@click.option(
    "--format", "format_", type=click.Choice(["mermaid", "svg"]), default="mermaid", show_default=True
)
@click.option("--declared", is_flag=True, help="Only what is declared: no freshness, no releases.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file, not to standard output."
)
def graph(call: Call, format_: str, declared: bool, output: Path | None) -> None:
    """Draw the project: topics and sources, tables, feature views, models, releases, and how fresh each is.

    A stale part has a dashed border. GitHub, GitLab and most editors draw Mermaid in a Markdown block.
    """
    from headrace.flows.project.graph import graph as draw
    from headrace.flows.project.status import status

    workspace = call.workspace()
    drawn = draw(workspace, None if declared else status(workspace))
    if call.json:
        show.json(drawn)
        return
    if not drawn.nodes:
        click.echo("The project declares nothing yet: headrace status says what to write first.", err=True)
    text = _to_text(drawn, format_)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_file(prepare_output(output), text)


def _to_text(drawn: ProjectGraph, format_: str) -> str:
    if format_ == "svg":
        from headrace.flows.project.graph_svg import to_svg

        return to_svg(drawn)
    from headrace.flows.project.graph_mermaid import to_mermaid

    return to_mermaid(drawn)
