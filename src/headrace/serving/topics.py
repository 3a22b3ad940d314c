"""The system topics, which Headrace itself writes. Each has a contract and is ingested like any other topic."""

from __future__ import annotations

from headrace.alerts.record import Alert
from headrace.declare.event import Contract, contract_of
from headrace.serving.prediction import Prediction
from headrace.serving.release import Release

__all__ = ["system_contracts"]


def system_contracts() -> list[Contract]:
    """The contracts of `headrace.alerts`, `headrace.predictions` and `headrace.releases`."""
    return [contract for contract in map(contract_of, (Alert, Prediction, Release)) if contract is not None]
