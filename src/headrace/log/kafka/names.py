"""The names of topics on a cluster: each project has system topics of its own (headrace.kernel.topics)."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.kernel.errors import CallError, Refused
from headrace.kernel.topics import SYSTEM, find_topic, stored_name

__all__ = ["TopicNames"]


class TopicNames:
    """Translates between topics and the names that a cluster stores them under.

    Args:
        project: the project's name; None: a log that belongs to no project has no system topics.
        where: the cluster's address, for errors.
    """

    def __init__(self, project: str | None, where: str) -> None:
        self._project = project
        self._where = where

    def to_stored(self, topic: str) -> str:
        """The name under which the cluster stores the topic.

        Raises:
            CallError: it is a system topic, and the log belongs to no project.
        """
        if self._project is not None:
            return stored_name(topic, self._project)
        if topic.startswith(SYSTEM):
            raise CallError(
                f"topic {topic!r} belongs to a project, and this log was opened without one",
                where=self._where,
                remedy="Open the log by the settings of a project: log.open(settings.log.url).",
            )
        return topic

    def to_topics(self, stored: Iterable[str]) -> list[str]:
        """The topics of the project among those of the cluster, sorted; system topics of others are left out.

        Raises:
            Refused: a system topic may be stored as an earlier Headrace did it (`check_earlier`).
        """
        stored = set(stored)
        if self._project is None:
            return sorted(name for name in stored if not name.startswith(SYSTEM))
        for name in stored:
            if name.startswith(SYSTEM) and name.count(".") == 1:
                self.check_earlier(name, stored)
        topics = (find_topic(name, self._project) for name in stored)
        return sorted(topic for topic in topics if topic is not None)

    def check_earlier(self, topic: str, stored: Iterable[str]) -> None:
        """Checks that no records of a system topic are left behind where an earlier Headrace stored them.

        Raises:
            Refused: the cluster has a topic of this very name, which all projects shared, and the project has
                no topic of its own.
        """
        own = self.to_stored(topic)
        if own != topic and topic in stored and own not in stored:
            raise Refused(
                f"topic {topic!r} is of an earlier Headrace, whose projects shared it: it may have records of"
                f" project {self._project!r}",
                where=self._where,
                remedy=f"Create topic {own!r}, and copy the project's records to it if there are any. Or delete"
                f" {topic!r}, if no project needs it.",
            )
