"""airflow: the build as a DAG file for Airflow 3, one task a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Task", "dag_file"]

_FILE = '''\
"""{title}: written by `headrace export airflow`. Change the project and write it again, not this."""

from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = {folder}
TASKS = {tasks}


class Stage(BashOperator):
    template_fields = ()  # a path may hold what Jinja would take for a template


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
    made = {{
        stage: Stage(task_id=stage, bash_command=command, cwd=PROJECT, append_env=True)
        for stage, (command, _) in TASKS.items()
    }}
    for stage, (_, needs) in TASKS.items():
        for one in needs:
            made[one] >> made[stage]
'''


@dataclass(frozen=True)
class Task:
    """One stage: its name, the command that brings it up to date, and the stages before it."""

    stage: str
    command: str
    needs: tuple[str, ...]


def dag_file(project: str, folder: str, tasks: Sequence[Task], every: timedelta | None) -> str:
    """The text of the DAG file. It imports Airflow alone: Headrace runs where `headrace` is on the PATH.

    Args:
        project: the DAG's name.
        folder: the project's folder on the machine that runs the tasks.
        tasks: each after those it needs.
        every: how often it runs; None: when it is triggered.
    """
    lines = "".join(
        f"    {_text(one.stage)}: ({_text(one.command)}, [{', '.join(map(_text, one.needs))}]),\n"
        for one in tasks
    )
    return _FILE.format(
        title=f"The build of {project}",
        folder=_text(folder),
        tasks="{\n" + lines + "}",
        dag=_text(project),
        schedule="None" if every is None else f"timedelta(seconds={int(every.total_seconds())})",
    )


def _text(value: str) -> str:
    return ascii(value)
