"""headrace export"""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import Path

import click

from headrace.cli.call import Call, verb
from headrace.export.airflow import Task, dag_file
from headrace.flows.build.graph import needs_of
from headrace.flows.build.planning import stages
from headrace.flows.build.work import Workshop

__all__ = ["export"]


@verb("export", example="headrace export airflow --out dags/shop.py")
@click.argument("target", type=click.Choice(["airflow"]))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: print it.")
def export(call: Call, target: str, out: Path | None) -> None:  # noqa: ARG001
    """Write the build for another tool: for Airflow 3 a DAG with one task a stage.

    It runs as often as the smallest refresh of the project's models.
    """
    settings = call.settings()
    shop = Workshop(settings)
    every = stages(shop)
    # The environment's own settings travel with Airflow's connections; the profile is named.
    options = f" --profile {shlex.quote(settings.profile_name)}"
    tasks = [
        Task(one.name, f"headrace build {shlex.quote(one.name)}{options}", needs_of(every, one))
        for one in every
    ]
    refreshes = [model["refresh"] for model in shop.code["models"].values() if model["refresh"] > 0]
    text = dag_file(
        settings.project,
        str(settings.root),
        tasks,
        timedelta(seconds=min(refreshes)) if refreshes else None,
    )
    if out is None:
        click.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    click.echo(f"Wrote {out}: {len(tasks)} tasks.")
