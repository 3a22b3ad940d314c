"""A table built in steps, in whatever order its events arrive, equals the table built at once; a killed build
leaves the old table or the new one."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables.build import build_table

Arrive = Callable[..., None]
NAMES = ("clean", "people", "daily", "visits")
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

# Hours since the first of January, and a user: few of each, so that days, visits and ties coincide.
CLICK = st.tuples(st.integers(0, 7 * 24 - 1).map(lambda h: BEGIN + timedelta(hours=h)), st.integers(1, 3))
ARRIVALS = st.lists(st.lists(CLICK, min_size=1, max_size=6), min_size=1, max_size=4)


def rows(lake: Lake, name: str) -> list[tuple[object, ...]]:
    frame = lake.table(name).scan().collect()
    return sorted(frame.select(sorted(frame.columns)).rows(), key=repr)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=ARRIVALS)
def test_builds_in_steps_equal_one_build(
    project: Project,
    lake: Lake,
    clicks: LakeTable,
    arrive: Arrive,
    arrivals: list[list[tuple[datetime, int]]],
) -> None:
    for name in (*NAMES, "clicks"):
        if name != "clicks" and lake.table_exists(name):
            lake.drop_table(name)
    clicks.overwrite(clicks.schema().empty_table())
    clock = BEGIN
    for batch in arrivals:
        clock = max([clock, *(time for time, _ in batch)]) + timedelta(minutes=1)
        arrive(*batch, arrived=clock)
        for name in NAMES:
            build_table(project, lake, project.table(name), code="1")
    in_steps = {name: rows(lake, name) for name in NAMES}
    for name in NAMES:
        lake.drop_table(name)
        build_table(project, lake, project.table(name), code="1")
    assert in_steps == {name: rows(lake, name) for name in NAMES}


BUILDER = """
import sys
from pathlib import Path
from headrace import lake
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.tables.build import build_table

project = load_project(load_settings(Path(sys.argv[1])))
build_table(project, lake.open(project.settings), project.table("clean"), code="1")
"""


@pytest.mark.parametrize(
    ("point", "published"), [("lake.after_data_file", 1), ("lake.before_commit", 1), ("lake.after_commit", 2)]
)
def test_the_next_build_continues_a_killed_one(
    project: Project, lake: Lake, arrive: Arrive, point: str, published: int
) -> None:
    arrive((BEGIN, 1), arrived=BEGIN)
    build_table(project, lake, project.table("clean"), code="1")
    arrive((BEGIN + timedelta(days=1), 2), arrived=BEGIN)
    killed = subprocess.run(
        [sys.executable, "-c", BUILDER, str(project.settings.root)],
        env={**os.environ, "HEADRACE_FAULT": point},
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert lake.table("clean").scan().collect().height == published
    built = build_table(project, lake, project.table("clean"), code="1")
    assert built.skipped == (published == 2)
    assert lake.table("clean").scan().collect().height == 2
