"""The metrics of each task: whether more is better, and the range of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import attrs

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["METRICS", "TASKS", "Metric", "Task", "better", "find_metric", "tasks_of"]

Task = Literal["binary", "multiclass", "regression"]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")


@attrs.frozen
class Metric:
    """A metric.

    Attributes:
        more_is_better: whether a higher value is better.
        low, high: the least and the greatest value.
    """

    more_is_better: bool
    low: float = 0.0
    high: float = 1.0


_LOG_LOSS = Metric(False, high=math.inf)
METRICS: Mapping[Task, Mapping[str, Metric]] = {
    "binary": {
        "roc_auc": Metric(True),
        "pr_auc": Metric(True),
        "accuracy_at_base_rate": Metric(True),
        "log_loss": _LOG_LOSS,
        "brier": Metric(False),
        "calibration_error": Metric(False),
    },
    "multiclass": {
        "accuracy": Metric(True),
        "macro_f1": Metric(True),
        "log_loss": _LOG_LOSS,
    },
    "regression": {
        "rmse": Metric(False, high=math.inf),
        "mae": Metric(False, high=math.inf),
        "mape": Metric(False, high=math.inf),
        "wape": Metric(False, high=math.inf),
        "r2": Metric(True, low=-math.inf),
    },
}


def find_metric(name: str, place: Place | None = None) -> Metric:
    """The metric of this name. A name means the same in every task that has it.

    Raises:
        ProjectError: no task has a metric of this name; the error names `place`, where it was declared.
    """
    for metrics in METRICS.values():
        if name in metrics:
            return metrics[name]
    names = "; ".join(f"{task}: {', '.join(metrics)}" for task, metrics in METRICS.items())
    raise ProjectError(
        f"metric {name!r} does not exist",
        where=None if place is None else str(place),
        remedy=f"The metrics are: {names}.",
    )


def tasks_of(name: str) -> frozenset[Task]:
    """The tasks that have a metric of this name."""
    return frozenset(task for task, metrics in METRICS.items() if name in metrics)


def better(name: str) -> Literal["max", "min"]:
    """`max` if more of the metric is better, otherwise `min`. Raises ProjectError for an unknown name."""
    return "max" if find_metric(name).more_is_better else "min"
