"""Names of system topics, on which Headrace keeps a project's releases, predictions, alerts and positions.

Everywhere in Headrace such a topic has the same name in every project: `headrace.releases`. A log that several
projects share stores it under a name of the project: `headrace.shop.releases`. The name of a project has no
dot, so two projects never have the same stored name.
"""

from __future__ import annotations

__all__ = ["SYSTEM", "find_topic", "stored_name"]

SYSTEM = "headrace."
"""The beginning of the names of system topics. No contract may name such a topic."""


def stored_name(topic: str, project: str) -> str:
    """The name under which a shared log stores a project's topic; another name only for a system topic."""
    return f"{SYSTEM}{project}.{topic.removeprefix(SYSTEM)}" if topic.startswith(SYSTEM) else topic


def find_topic(stored: str, project: str) -> str | None:
    """The topic of the project that a shared log stores under this name; None: a system topic of others."""
    if not stored.startswith(SYSTEM):
        return stored
    own = f"{SYSTEM}{project}."
    return SYSTEM + stored.removeprefix(own) if stored.startswith(own) else None
