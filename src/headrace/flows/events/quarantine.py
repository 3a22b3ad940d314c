"""quarantine: what was refused of the project's topics, and why; once more onto the log; alerts of it."""

from __future__ import annotations

from collections.abc import Sequence

from headrace import lake, log
from headrace.alerts.record import Alert, open_alerts
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events import quarantine
from headrace.events.quarantine import Choice, Group, Replay, Waiting
from headrace.flows.events.ingest import open_schema_registry
from headrace.projects.project import load_project

__all__ = ["alerts", "groups", "replay", "waiting"]


def groups(settings: Settings, topics: Sequence[str] = ()) -> dict[str, list[Group]]:
    """What waits, by topic (default: all), then by code and field.

    Raises:
        CallError: a topic has no contract.
    """
    opened = lake.open(settings)
    return {one.topic: quarantine.groups(one, opened) for one in _contracts(settings, topics)}


def waiting(settings: Settings, topic: str, choice: Choice) -> list[Waiting]:
    """The chosen events that wait, the newest first, with their bytes.

    Raises:
        CallError: the topic has no contract, or there is no such code.
    """
    return quarantine.show(_contracts(settings, [topic])[0], lake.open(settings), choice)


def replay(settings: Settings, topic: str, choice: Choice, *, dry_run: bool = False) -> Replay:
    """Puts what is chosen on the log once more, for ingest to judge anew; or only says what that is.

    Raises:
        CallError: the topic has no contract, there is no such code, or it is more than one transaction
            takes.
    """
    contract = _contracts(settings, [topic])[0]
    opened = log.open(settings.log.url)
    try:
        return quarantine.replay(
            contract, lake.open(settings), opened, choice, open_schema_registry(settings), dry_run=dry_run
        )
    finally:
        opened.close()


def alerts(settings: Settings) -> list[Alert]:
    """The alerts that are not over, each as it last changed, the oldest first."""
    opened = log.open(settings.log.url)
    try:
        return open_alerts(opened, lake.open(settings))
    finally:
        opened.close()


def _contracts(settings: Settings, topics: Sequence[str]) -> list[Contract]:
    project = load_project(settings, without=("feast",))
    return [project.contract(name) for name in topics] or list(project.contracts.values())
