"""The metrics of a binary model: which there are, whether more is better, and between what they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["METRICS", "Metric", "better", "find_metric"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        more_is_better: whether a higher value is the better one.
        low, high: between what it lies, both included.
    """

    more_is_better: bool
    low: float = 0.0
    high: float = 1.0


METRICS = {
    "roc_auc": Metric(True),
    "pr_auc": Metric(True),
    "accuracy_at_base_rate": Metric(True),
    "log_loss": Metric(False, high=math.inf),
    "brier": Metric(False),
    "calibration_error": Metric(False),
}


def find_metric(name: str, place: Place | None = None) -> Metric:
    """The metric of this name.

    Raises:
        ProjectError: there is no metric of this name; `place` is where it was named.
    """
    if name not in METRICS:
        raise ProjectError(
            f"there is no metric {name!r}",
            where=None if place is None else str(place),
            remedy=f"Metrics: {', '.join(METRICS)}.",
        )
    return METRICS[name]


def better(name: str) -> str:
    """`max` where more of the metric is better, else `min`. Raises ProjectError for an unknown name."""
    return "max" if find_metric(name).more_is_better else "min"
