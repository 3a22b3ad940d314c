"""quarantine: what was refused of the project's topics, and why; and once more onto the log."""

from __future__ import annotations

from collections.abc import Sequence

from headrace import lake, log
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.declare.project import load_project
from headrace.events import quarantine
from headrace.events.quarantine import Group, Waiting

__all__ = ["groups", "replay", "waiting"]


def groups(settings: Settings, topics: Sequence[str] = ()) -> dict[str, list[Group]]:
    """What waits, by topic (default: all), then by code and field.

    Raises:
        CallError: a topic has no contract.
    """
    opened = lake.open(settings)
    return {one.topic: quarantine.groups(one, opened) for one in _contracts(settings, topics)}


def waiting(settings: Settings, topic: str, *, code: str | None = None, limit: int = 20) -> list[Waiting]:
    """The newest that wait, with their bytes.

    Raises:
        CallError: the topic has no contract, or there is no such code.
    """
    return quarantine.show(_contracts(settings, [topic])[0], lake.open(settings), limit=limit, code=code)


def replay(
    settings: Settings,
    topic: str,
    *,
    code: str | None = None,
    field: str | None = None,
    limit: int | None = None,
) -> int:
    """Puts what waits on the log once more, for ingest to judge anew. Returns how many.

    Raises:
        CallError: the topic has no contract, or there is no such code.
    """
    contract = _contracts(settings, [topic])[0]
    opened = log.open(settings.log_url)
    try:
        return quarantine.replay(contract, lake.open(settings), opened, code=code, field=field, limit=limit)
    finally:
        opened.close()


def _contracts(settings: Settings, topics: Sequence[str]) -> list[Contract]:
    project = load_project(settings, without=("feast",))
    return [project.contract(name) for name in topics] or list(project.contracts.values())
