"""headrace lineage"""

from __future__ import annotations

from collections.abc import Iterator

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.trace.lineage import lineage as trace
from headrace.flows.trace.lineage import model_facts
from headrace.kernel.position import SnapshotPosition
from headrace.lineage import RunRow
from headrace.lineage.graph import Node
from headrace.lineage.names import kind_and_name

__all__ = ["lineage"]


@command("lineage", example="headrace lineage\nheadrace lineage churn\nheadrace lineage churn@2")
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many runs to list.")
def lineage(call: Call, name: str | None, limit: int) -> None:
    """Show what NAME was made from: a released model, a version of it (churn@2), or a table.

    Without NAME, list the newest runs.
    """
    workspace = call.workspace()
    if name is None:
        runs = workspace.lineage.runs(limit=limit)
        if call.json:
            show.json(runs)
        else:
            _print_runs(runs)
        return
    node = trace(workspace, name)
    if call.json:
        show.json(node)
    else:
        for line in _lines(node, ""):
            click.echo(show.readable(line))


def _print_runs(runs: list[RunRow]) -> None:
    rows = [
        (
            f"{run.started:%F %T}",
            run.job,
            run.outcome,
            show.seconds(None if run.ended is None else (run.ended - run.started).total_seconds()),
            ", ".join(kind_and_name(output)[1] for output in run.outputs),
        )
        for run in runs
    ]
    show.table(None, ["started (UTC)", "job", "outcome", "took", "wrote"], rows)


def _lines(node: Node, indent: str) -> Iterator[str]:
    dataset, run = node.dataset, node.run
    kind, name = kind_and_name(dataset)
    position = dataset.position
    at = f" at snapshot {position.snapshot_id}" if isinstance(position, SnapshotPosition) else ""
    by = "" if run is None else f"  by {run.job}, {run.outcome}, {run.started:%F %T}"
    yield f"{indent}{kind} {name}{at}{by}" + ("  (see above)" if node.repeated else "")
    if not node.repeated:
        for title, values in model_facts(node):
            pairs = ", ".join(f"{name} {_spell(value)}" for name, value in values.items())
            yield f"{indent}    {title}: {pairs}"
    for inner in node.beyond:
        yield from _lines(inner, f"{indent}  ")


def _spell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
