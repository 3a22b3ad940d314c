"""Schedules: checks that what headrace.toml names is declared by the project."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.config.schedules import Schedule
from headrace.config.settings import FILE
from headrace.flows.build.context import BuildContext
from headrace.kernel.errors import CallError, ProjectError
from headrace.workspace import Workspace

__all__ = ["check_schedules"]


def check_schedules(workspace: Workspace) -> dict[str, str]:
    """Checks the topics and targets of each schedule. Returns topic → its table.

    Raises:
        ProjectError: a schedule names a topic or a target that the project does not have.
    """
    schedules = workspace.settings.schedules
    if not any(schedule.topics or schedule.build for schedule in schedules):
        return {}
    context = BuildContext(workspace)
    topics = dict(context.code.topics)
    for schedule in schedules:
        where = f"{workspace.settings.root / FILE}: schedule.{schedule.name}"
        _check_topics(schedule, topics, where)
        try:
            context.graph.select(schedule.build)
        except CallError as error:
            raise ProjectError(error.what, where=f"{where}.build", remedy=error.remedy) from error
    return topics


def _check_topics(schedule: Schedule, topics: Mapping[str, str], where: str) -> None:
    for topic in schedule.topics:
        if topic not in topics:
            raise ProjectError(
                f"topic {topic!r} is not declared",
                where=f"{where}.topics",
                remedy=f"The topics of the project are {', '.join(sorted(topics)) or 'none yet'}.",
            )
