"""airflow: writes the build as a DAG file for Airflow 3, with one task per stage."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.export.target import Export, Target
from headrace.flows.build.context import BuildContext
from headrace.workspace import Workspace

__all__ = ["TARGET", "Task", "dag_file"]

_FILE = '''\
"""{title}, written by `headrace export airflow`. Do not edit it: change the project and export again."""

from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = {folder}
TASKS = {tasks}


class Stage(BashOperator):
    template_fields = ()  # a path may contain text that Jinja would read as a template


with DAG(
    dag_id={dag},
    schedule={schedule},
    start_date=datetime(2024, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,  # one build of a project at a time
    # A build by hand may be under way.
    default_args={{"retries": 2, "retry_delay": timedelta(minutes=5)}},
) as dag:
    tasks = {{
        stage: Stage(task_id=stage, bash_command=command, cwd=PROJECT, append_env=True)
        for stage, (command, _) in TASKS.items()
    }}
    for stage, (_, needs) in TASKS.items():
        for need in needs:
            tasks[need] >> tasks[stage]
'''


class Task(Struct, frozen=True):
    """One stage: its name, the command that brings it up to date, and the stages before it."""

    stage: str
    command: str
    needs: tuple[str, ...]


def _write(settings: Settings) -> Export:
    """Writes the project's build. The DAG runs as often as the smallest refresh of its models."""
    context = BuildContext(Workspace(settings))
    graph = context.graph
    # Airflow passes environment variables on by its own configuration, so only the profile is named.
    options = f" --profile {shlex.quote(settings.profile_name)}"
    tasks = [
        Task(stage.name, f"headrace build {shlex.quote(stage.name)}{options}", graph.needs_of(stage))
        for stage in graph.stages
    ]
    refreshes = [model.refresh for model in context.code.models.values() if model.refresh > 0]
    interval = timedelta(seconds=min(refreshes)) if refreshes else None
    text = dag_file(settings.project, str(settings.root), tasks, interval)
    return Export(text, f"{len(tasks)} tasks")


TARGET = Target(
    name="airflow",
    help="Write the build as a DAG for Airflow 3.\n\n"
    "Each stage is a task. The DAG runs as often as the smallest refresh of the project's models.",
    example="headrace export airflow --output dags/shop.py",
    write=_write,
)


def dag_file(project: str, folder: str, tasks: Sequence[Task], every: timedelta | None) -> str:
    """The text of the DAG file. It imports only Airflow; its tasks need `headrace` on the PATH.

    Args:
        project: the DAG's name.
        folder: the project's folder on the machine that runs the tasks.
        tasks: the tasks, each after those that it needs.
        every: the interval of the schedule; None: the DAG runs when it is triggered.
    """
    lines = "".join(
        f"    {_literal(task.stage)}: ({_literal(task.command)}, [{', '.join(map(_literal, task.needs))}]),\n"
        for task in tasks
    )
    return _FILE.format(
        title=f"The build of {project}",
        folder=_literal(folder),
        tasks="{\n" + lines + "}",
        dag=_literal(project),
        schedule="None" if every is None else f"timedelta(seconds={int(every.total_seconds())})",
    )


def _literal(value: str) -> str:
    return ascii(value)
