"""quarantine: the refused events of the project's topics, their replay, and the alerts that are open."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from headrace import lake as lakes
from headrace import log as logs
from headrace.alerts.record import Alert
from headrace.alerts.record import open_alerts as read_open_alerts
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events import quarantine
from headrace.events.quarantine import QuarantineSelection, RefusalGroup, RefusedEvent, ReplayResult
from headrace.flows.events.ingest import open_schema_registry
from headrace.projects.project import load_project

__all__ = ["find_refused", "open_alerts", "refusal_groups", "replay"]


def refusal_groups(settings: Settings, topics: Sequence[str] = ()) -> dict[str, list[RefusalGroup]]:
    """The events in quarantine, by topic (default: all), then by code and field.

    Raises:
        CallError: a topic has no contract.
    """
    lake = lakes.open(settings)
    contracts = _contracts(settings, topics)
    return {contract.topic: quarantine.refusal_groups(contract, lake) for contract in contracts}


def find_refused(settings: Settings, topic: str, selection: QuarantineSelection) -> list[RefusedEvent]:
    """The selected events, the newest first, with their bytes.

    Raises:
        CallError: the topic has no contract, or the code does not exist.
    """
    (contract,) = _contracts(settings, [topic])
    return quarantine.find_refused(contract, lakes.open(settings), selection)


def replay(
    settings: Settings, topic: str, selection: QuarantineSelection, *, dry_run: bool = False
) -> ReplayResult:
    """Appends the selected events to the log again, for ingest to judge; or only reports which these are.

    Raises:
        CallError: the topic has no contract, the code does not exist, or more is selected than one
            transaction accepts.
    """
    (contract,) = _contracts(settings, [topic])
    schema_registry = open_schema_registry(settings)
    with closing(logs.open(settings.log.url)) as log:
        return quarantine.replay(
            contract, lakes.open(settings), log, selection, schema_registry, dry_run=dry_run
        )


def open_alerts(settings: Settings) -> list[Alert]:
    """The last change of each alert that is not resolved, the oldest first."""
    with closing(logs.open(settings.log.url)) as log:
        return read_open_alerts(log, lakes.open(settings))


def _contracts(settings: Settings, topics: Sequence[str]) -> list[Contract]:
    project = load_project(settings, without=("feast",))
    return [project.contract(name) for name in topics] or list(project.contracts.values())
