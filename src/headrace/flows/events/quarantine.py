"""quarantine: the refused events of the project's topics, their replay, and the alerts that are open."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.alerts.record import Alert
from headrace.alerts.record import open_alerts as read_open_alerts
from headrace.declare.event import Contract
from headrace.events import quarantine
from headrace.events.quarantine import QuarantineSelection, RefusalGroup, RefusedEvent, ReplayResult
from headrace.flows.events.schema_registry import open_schema_registry
from headrace.workspace import Workspace

__all__ = ["find_refused", "open_alerts", "refusal_groups", "replay"]


def refusal_groups(workspace: Workspace, topics: Sequence[str] = ()) -> dict[str, list[RefusalGroup]]:
    """The events in quarantine, by topic (default: all), then by code and field.

    Raises:
        CallError: a topic has no contract.
    """
    lake, contracts = workspace.lake, _contracts(workspace, topics)
    return {contract.topic: quarantine.refusal_groups(contract, lake) for contract in contracts}


def find_refused(workspace: Workspace, topic: str, selection: QuarantineSelection) -> list[RefusedEvent]:
    """The selected events, the newest first, with their bytes.

    Raises:
        CallError: the topic has no contract, or the code does not exist.
    """
    (contract,) = _contracts(workspace, [topic])
    return quarantine.find_refused(contract, workspace.lake, selection)


def replay(
    workspace: Workspace, topic: str, selection: QuarantineSelection, *, dry_run: bool = False
) -> ReplayResult:
    """Appends the selected events to the log again, for ingest to judge. With `dry_run` only reports them.

    Raises:
        CallError: the topic has no contract, the code does not exist, or the selection is larger than one
            transaction accepts.
    """
    (contract,) = _contracts(workspace, [topic])
    schema_registry = open_schema_registry(workspace.settings)
    return quarantine.replay(
        contract, workspace.lake, workspace.log, selection, schema_registry, dry_run=dry_run
    )


def open_alerts(workspace: Workspace) -> list[Alert]:
    """The last change of each alert that is not resolved, the oldest first."""
    return read_open_alerts(workspace.log, workspace.lake)


def _contracts(workspace: Workspace, topics: Sequence[str]) -> list[Contract]:
    project = workspace.project
    return [project.contract(name) for name in topics] or list(project.contracts.values())
