"""Headrace: raw events to live predictions, and from any prediction back to its events.

These are the public names. Importing the package loads no engine (Ray, Feast, MLflow, Polars), because
each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msgspec import Meta, Struct

    from headrace.api import project
    from headrace.declare.alerts import Alerts
    from headrace.declare.audits import fresh_within, references, rows_like_before, satisfies
    from headrace.declare.baselines import SeasonalNaive
    from headrace.declare.changes import changes, current
    from headrace.declare.event import event
    from headrace.declare.gate import at_least, at_most, better_than_baseline, not_worse_than_champion
    from headrace.declare.model import Model
    from headrace.declare.outcomes import Outcomes
    from headrace.declare.params import params
    from headrace.declare.partitioning import by, day, hour, month
    from headrace.declare.precision import Precision
    from headrace.declare.publish import Dimension, Fact, publish
    from headrace.declare.query import query
    from headrace.declare.search import Tune, choice, integers, loguniform, uniform
    from headrace.declare.source import source
    from headrace.declare.splits import ByGroup, ByTime, Stratified, WalkForward
    from headrace.declare.table import table
    from headrace.declare.trainers import MLP, Sklearn, Torch, XGBoost
    from headrace.demo.demo import Demo
    from headrace.features.feast.saved import LoggingTable, SavedDatasetTable
    from headrace.features.feast.source import TableSource
    from headrace.kernel.errors import HeadraceError, Refused
    from headrace.serving.mlflow_models.interpreters import find_interpreter

__version__ = "0.1.0"

_HOMES = {
    "Alerts": "headrace.declare.alerts",
    "ByGroup": "headrace.declare.splits",
    "ByTime": "headrace.declare.splits",
    "Demo": "headrace.demo.demo",
    "HeadraceError": "headrace.kernel.errors",
    "LoggingTable": "headrace.features.feast.saved",
    "MLP": "headrace.declare.trainers",
    "Meta": "msgspec",
    "Model": "headrace.declare.model",
    "Outcomes": "headrace.declare.outcomes",
    "Precision": "headrace.declare.precision",
    "Refused": "headrace.kernel.errors",
    "SavedDatasetTable": "headrace.features.feast.saved",
    "SeasonalNaive": "headrace.declare.baselines",
    "Sklearn": "headrace.declare.trainers",
    "Stratified": "headrace.declare.splits",
    "Struct": "msgspec",
    "TableSource": "headrace.features.feast.source",
    "Torch": "headrace.declare.trainers",
    "Tune": "headrace.declare.search",
    "WalkForward": "headrace.declare.splits",
    "XGBoost": "headrace.declare.trainers",
    "at_least": "headrace.declare.gate",
    "at_most": "headrace.declare.gate",
    "better_than_baseline": "headrace.declare.gate",
    "by": "headrace.declare.partitioning",
    "changes": "headrace.declare.changes",
    "choice": "headrace.declare.search",
    "current": "headrace.declare.changes",
    "day": "headrace.declare.partitioning",
    "event": "headrace.declare.event",
    "find_interpreter": "headrace.serving.mlflow_models.interpreters",
    "fresh_within": "headrace.declare.audits",
    "hour": "headrace.declare.partitioning",
    "integers": "headrace.declare.search",
    "loguniform": "headrace.declare.search",
    "month": "headrace.declare.partitioning",
    "not_worse_than_champion": "headrace.declare.gate",
    "params": "headrace.declare.params",
    "project": "headrace.api",
    "Dimension": "headrace.declare.publish",
    "Fact": "headrace.declare.publish",
    "publish": "headrace.declare.publish",
    "query": "headrace.declare.query",
    "references": "headrace.declare.audits",
    "rows_like_before": "headrace.declare.audits",
    "satisfies": "headrace.declare.audits",
    "source": "headrace.declare.source",
    "table": "headrace.declare.table",
    "uniform": "headrace.declare.search",
}

__all__ = [
    "MLP",
    "Alerts",
    "ByGroup",
    "ByTime",
    "Demo",
    "Dimension",
    "Fact",
    "HeadraceError",
    "LoggingTable",
    "Meta",
    "Model",
    "Outcomes",
    "Precision",
    "Refused",
    "SavedDatasetTable",
    "SeasonalNaive",
    "Sklearn",
    "Stratified",
    "Struct",
    "TableSource",
    "Torch",
    "Tune",
    "WalkForward",
    "XGBoost",
    "__version__",
    "at_least",
    "at_most",
    "better_than_baseline",
    "by",
    "changes",
    "choice",
    "current",
    "day",
    "event",
    "find_interpreter",
    "fresh_within",
    "hour",
    "integers",
    "loguniform",
    "month",
    "not_worse_than_champion",
    "params",
    "project",
    "publish",
    "query",
    "references",
    "rows_like_before",
    "satisfies",
    "source",
    "table",
    "uniform",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    # Stored, because `source` and `table` are functions here, although submodules have these names too.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
