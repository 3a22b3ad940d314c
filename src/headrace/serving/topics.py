"""The system topics, which Headrace itself writes. Each has a contract and is ingested like any other topic."""

from __future__ import annotations

from headrace.alerts.record import Alert
from headrace.declare.event import Contract, contract_of
from headrace.serving.mlflow_models.model_set import ModelSet
from headrace.serving.prediction import Prediction
from headrace.serving.release import Release

__all__ = ["system_contracts"]


def system_contracts() -> list[Contract]:
    """The contracts of the topics of alerts, model sets, predictions and releases."""
    records = (Alert, ModelSet, Prediction, Release)
    return [contract for contract in map(contract_of, records) if contract is not None]
