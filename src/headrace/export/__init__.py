"""Export: writes a project for other tools. One file per target, listed in TARGETS."""

from __future__ import annotations

from headrace.export import airflow, debezium, kserve, kubeflow
from headrace.export.target import Target

__all__ = ["TARGETS"]

TARGETS: tuple[Target, ...] = (airflow.TARGET, debezium.TARGET, kserve.TARGET, kubeflow.TARGET)
