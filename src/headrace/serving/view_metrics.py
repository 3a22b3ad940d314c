"""Metrics of feature views in Prometheus' text format: freshness, missing values, and cost."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.features.online import RowPosition

if TYPE_CHECKING:
    from headrace.features.online import ServedPosition
    from headrace.features.online.lookup import ViewRead

__all__ = ["Histogram", "ViewMetrics", "escape", "metric_head", "view_lines"]

_AGES = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)  # seconds
_MICROS = 1e-6


class Histogram:
    """Numbers of observations up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The samples, with the labels (`a="1",`, or empty)."""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._buckets, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}le="{bound}"}} {total}'
        braces = f"{{{labels.rstrip(',')}}}" if labels else ""
        yield f"{name}_sum{braces} {self._sum:.6f}"
        yield f"{name}_count{braces} {total}"


class ViewMetrics:
    """What is counted of the views of one plan. Threads may share it.

    Args:
        labels: the labels of every sample, as in the text format: `model="m",`.

    Attributes:
        values: view → how many values it gave.
        missing: view → how many of them were missing.
        seconds: view → what it took to compute them.
        bytes: view → the size of the states that they came from.
        ages: as-of view → the age of the rows that its values came from, seconds.
    """

    def __init__(self, labels: str) -> None:
        self.labels = labels
        self._lock = threading.Lock()
        self.values: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.ages: dict[str, Histogram] = {}

    def count(
        self, at: int, views: Mapping[str, ViewRead], positions: Sequence[Mapping[str, ServedPosition]]
    ) -> None:
        """Counts a lookup.

        Args:
            at: its moment, microseconds.
            views: view → what it gave and cost.
            positions: for each request, view → the position of its values.
        """
        with self._lock:
            for name, read in views.items():
                self.values[name] += read.values
                self.missing[name] += read.missing
                self.bytes[name] += read.bytes
                self.seconds[name] = self.seconds.get(name, 0.0) + read.seconds
            for row in positions:
                for name, position in row.items():
                    if type(position) is RowPosition and position.time is not None:
                        ages = self.ages.get(name)
                        if ages is None:
                            ages = self.ages[name] = Histogram(_AGES)
                        ages.observe((at - position.time) * _MICROS)

    def view_labels(self, view: str) -> str:
        """The labels of the samples of a view."""
        return f'{self.labels}view="{escape(view)}",'


def view_lines(counted: Sequence[ViewMetrics]) -> Iterable[str]:
    """The metrics of views as lines of the text format."""
    yield from metric_head("feature_age_seconds", "histogram", "Age of the row that a view's values came from.")
    for metrics in counted:
        for view, ages in sorted(metrics.ages.items()):
            yield from ages.lines("headrace_feature_age_seconds", metrics.view_labels(view))
    families: tuple[tuple[str, str, list[Mapping[str, float]]], ...] = (
        ("view_values_total", "Values that a view gave.", [metrics.values for metrics in counted]),
        ("view_missing_values_total", "Values of these that were missing.", [m.missing for m in counted]),
        ("view_seconds_total", "Time to compute a view's values.", [m.seconds for m in counted]),
        ("view_bytes_total", "Size of the states that a view's values came from.", [m.bytes for m in counted]),
    )
    for name, help_text, numbers in families:
        yield from metric_head(name, "counter", help_text)
        for metrics, by_view in zip(counted, numbers, strict=True):
            for view, number in sorted(by_view.items()):
                yield f"headrace_{name}{{{metrics.view_labels(view).rstrip(',')}}} {number}"


def metric_head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    """The two lines before the samples of a metric."""
    return f"# HELP headrace_{name} {help_text}", f"# TYPE headrace_{name} {kind}"


def escape(label: str) -> str:
    """The value of a label as it stands within quotes."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
