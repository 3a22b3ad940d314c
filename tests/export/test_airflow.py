"""The DAG file, executed with substitutes for the two classes of Airflow that it uses."""

from __future__ import annotations

import sys
from datetime import timedelta
from types import ModuleType
from typing import Any

import jinja2
import pytest

from headrace.export.airflow import Task, dag_file

TASKS = [
    Task("code", "headrace build code", ()),
    Task("table-a", "headrace build table-a", ("code",)),
    Task("release-m", "headrace build 'release-m'", ("code", "table-a")),
]


def run_dag_file(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the DAG, and its tasks: id → (options, ids of the tasks after it)."""
    dags: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}

    class Dag:
        def __init__(self, **options: Any) -> None:
            dags.append(options)

        def __enter__(self) -> Dag:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    class Bash:
        template_fields = ("bash_command", "env", "cwd")

        def __init__(self, **options: Any) -> None:
            self.id, self.after = options.pop("task_id"), set[str]()
            for name in self.template_fields:  # as Airflow does before it runs a task
                options |= {name: jinja2.Template(options[name]).render()} if name in options else {}
            tasks[self.id] = (options, self.after)

        def __rshift__(self, other: Bash) -> Bash:
            self.after.add(other.id)
            return other

    bash, sdk = "airflow.providers.standard.operators.bash", "airflow.sdk"
    parents = (
        "airflow",
        "airflow.providers",
        "airflow.providers.standard",
        "airflow.providers.standard.operators",
    )
    for name in (*parents, bash, sdk):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[bash].BashOperator = Bash  # type: ignore[attr-defined]
    sys.modules[sdk].DAG = Dag  # type: ignore[attr-defined]
    exec(compile(text, "dag.py", "exec"), {})
    (dag,) = dags
    return dag, tasks


def test_each_stage_is_a_task_in_the_order_of_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    text = dag_file("shop", '/srv/it\'s "here"', TASKS, timedelta(hours=6))
    dag, tasks = run_dag_file(text, monkeypatch)
    assert (dag["dag_id"], dag["schedule"], dag["catchup"]) == ("shop", timedelta(hours=6), False)
    assert dag["max_active_tasks"] == dag["max_active_runs"] == 1
    assert {name: after for name, (_, after) in tasks.items()} == {
        "code": {"table-a", "release-m"},
        "table-a": {"release-m"},
        "release-m": set(),
    }
    assert tasks["release-m"][0]["bash_command"] == "headrace build 'release-m'"
    assert tasks["release-m"][0]["cwd"] == '/srv/it\'s "here"'


@pytest.mark.parametrize(
    "folder", ["/srv/{{x}}", "/srv/{% raw %}", "/srv/{#", "/srv/\U0001f600 ü", "/srv/\\n\"'"]
)
def test_a_folder_name_is_not_interpreted_as_a_template(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = dag_file("shop", folder, TASKS, None)
    _, tasks = run_dag_file(text.encode().decode(), monkeypatch)
    assert {options["cwd"] for options, _ in tasks.values()} == {folder}
    assert tasks["code"][0]["bash_command"] == "headrace build code"


def test_a_failed_task_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    dag, _ = run_dag_file(dag_file("shop", "/srv", TASKS, None), monkeypatch)
    assert dag["default_args"] == {"retries": 2, "retry_delay": timedelta(minutes=5)}


def test_without_a_refresh_the_dag_has_no_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_dag_file(dag_file("shop", "/srv", TASKS, None), monkeypatch)[0]["schedule"] is None
