"""headrace export"""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from pathlib import Path

import click

from headrace.cli.call import Call, verb
from headrace.config.settings import Settings
from headrace.events.connector import connectors
from headrace.export.airflow import Task, dag_file
from headrace.export.debezium import connect_body, engine_properties
from headrace.flows.build.context import BuildContext
from headrace.kernel.errors import CallError
from headrace.projects.project import load_project

__all__ = ["export"]


@verb(
    "export",
    example="headrace export airflow --out dags/shop.py\n"
    "headrace export debezium | curl -H 'Content-Type: application/json' -d @- localhost:8083/connectors",
)
@click.argument("target", type=click.Choice(["airflow", "debezium"]))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Default: print it.")
@click.option("--prefix", metavar="NAME", help="debezium: of the topics, where the project has several.")
@click.option("--engine", is_flag=True, help="debezium: properties of the embedded engine, not Connect's JSON.")
def export(call: Call, target: str, out: Path | None, prefix: str | None, engine: bool) -> None:
    """Write what another tool needs of the project.

    airflow: the build, for Airflow 3 a DAG with one task a stage. It runs as often as the smallest
    refresh of the project's models.

    debezium: the connector that puts the changes of database tables (@changes) on their topics, to be
    POSTed to Kafka Connect.
    """
    settings = call.settings()
    if target == "airflow":
        text, what = _airflow(settings)
    else:
        text, what = _debezium(settings, prefix, engine)
    if out is None:
        click.echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    click.echo(f"Wrote {out}: {what}.")


def _airflow(settings: Settings) -> tuple[str, str]:
    context = BuildContext(settings)
    graph = context.graph
    # The environment's own settings travel with Airflow's connections; the profile is named.
    options = f" --profile {shlex.quote(settings.profile_name)}"
    tasks = [
        Task(stage.name, f"headrace build {shlex.quote(stage.name)}{options}", graph.needs_of(stage))
        for stage in graph.stages
    ]
    refreshes = [model.refresh for model in context.code.models.values() if model.refresh > 0]
    text = dag_file(
        settings.project,
        str(settings.root),
        tasks,
        timedelta(seconds=min(refreshes)) if refreshes else None,
    )
    return text, f"{len(tasks)} tasks"


def _debezium(settings: Settings, prefix: str | None, engine: bool) -> tuple[str, str]:
    every = connectors(settings.project, load_project(settings, without=("feast",)).contracts.values())
    found = [one for one in every if prefix in (None, one.prefix)]
    if len(found) != 1:
        raise CallError(
            "the project's tables have topics of several prefixes, a connector each"
            if prefix is None
            else f"no topic has the prefix {prefix!r}",
            remedy=f"Name one: --prefix {' or '.join(one.prefix for one in every)}.",
        )
    one = found[0]
    text = engine_properties(one) if engine else json.dumps(connect_body(one), indent=1) + "\n"
    return text, f"a connector for {len(one.topics)} table{'s' * (len(one.topics) != 1)}"
