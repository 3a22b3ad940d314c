"""Metrics of feature views in Prometheus' text format: freshness, missing values, and cost."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from headrace.features.online import RowPosition

if TYPE_CHECKING:
    from headrace.features.online import ServedPosition
    from headrace.features.online.lookup import ViewRead

__all__ = [
    "Histogram",
    "ViewCounts",
    "ViewMetrics",
    "add_counts",
    "escape",
    "make_histogram",
    "metric_head",
    "view_lines",
]

_AGES = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)  # seconds
_MICROS = 1e-6


class Histogram(Struct):
    """Numbers of observations up to each bound.

    Attributes:
        bounds: the bounds, ascending.
        buckets: the observations between a bound and the one before; the last are above all bounds.
        sum: the sum of the observations.
    """

    bounds: tuple[float, ...]
    buckets: list[int]
    sum: float = 0.0

    def observe(self, value: float) -> None:
        """Counts one observation."""
        self.buckets[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Adds the observations of a histogram with the same bounds."""
        self.buckets = [own + theirs for own, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.sum += other.sum

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """The samples, with the labels (`a="1",`, or empty)."""
        total = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.buckets, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}le="{bound}"}} {total}'
        braces = f"{{{labels.rstrip(',')}}}" if labels else ""
        yield f"{name}_sum{braces} {self.sum:.6f}"
        yield f"{name}_count{braces} {total}"


def make_histogram(bounds: tuple[float, ...]) -> Histogram:
    """A histogram without observations."""
    return Histogram(bounds, [0] * (len(bounds) + 1))


class ViewCounts(Struct):
    """What is counted of the views of one plan.

    Attributes:
        values: view → how many values it gave.
        missing: view → how many of them were missing.
        seconds: view → what it took to compute them.
        bytes: view → the size of the states that they came from.
        ages: as-of view → the age of the rows that its values came from, seconds.
    """

    values: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ages: dict[str, Histogram] = field(default_factory=dict)

    def add(self, other: ViewCounts) -> None:
        """Adds the counts of another replica."""
        add_counts(self.values, other.values)
        add_counts(self.missing, other.missing)
        add_counts(self.bytes, other.bytes)
        for view, seconds in other.seconds.items():
            self.seconds[view] = self.seconds.get(view, 0.0) + seconds
        for view, ages in other.ages.items():
            self.find_ages(view).add(ages)

    def find_ages(self, view: str) -> Histogram:
        """The ages of a view, which are empty at first."""
        ages = self.ages.get(view)
        if ages is None:
            ages = self.ages[view] = make_histogram(_AGES)
        return ages


class ViewMetrics:
    """Counts what the views of one plan give. Threads may share it.

    Args:
        counts: the counts, which are updated.
    """

    def __init__(self, counts: ViewCounts) -> None:
        self._counts = counts
        self._lock = threading.Lock()

    def count(
        self, at: int, views: Mapping[str, ViewRead], positions: Sequence[Mapping[str, ServedPosition]]
    ) -> None:
        """Counts a lookup.

        Args:
            at: its moment, microseconds.
            views: view → what it gave and cost.
            positions: for each request, view → the position of its values.
        """
        counts = self._counts
        with self._lock:
            for name, read in views.items():
                counts.values[name] = counts.values.get(name, 0) + read.values
                counts.missing[name] = counts.missing.get(name, 0) + read.missing
                counts.bytes[name] = counts.bytes.get(name, 0) + read.bytes
                counts.seconds[name] = counts.seconds.get(name, 0.0) + read.seconds
            for row in positions:
                for name, position in row.items():
                    if type(position) is RowPosition and position.time is not None:
                        counts.find_ages(name).observe((at - position.time) * _MICROS)


def add_counts(counts: dict[str, int], others: Mapping[str, int]) -> None:
    """Adds numbers by key."""
    for key, count in others.items():
        counts[key] = counts.get(key, 0) + count


def view_lines(counted: Sequence[tuple[str, ViewCounts]]) -> Iterable[str]:
    """The metrics of views as lines of the text format, from pairs of labels (`model="m",`) and counts."""
    yield from metric_head("feature_age_seconds", "histogram", "Age of the row that a view's values came from.")
    for labels, counts in counted:
        for view, ages in sorted(counts.ages.items()):
            yield from ages.lines("headrace_feature_age_seconds", f'{labels}view="{escape(view)}",')
    families: tuple[tuple[str, str, list[Mapping[str, float]]], ...] = (
        ("view_values_total", "Values that a view gave.", [c.values for _, c in counted]),
        ("view_missing_values_total", "Values of these that were missing.", [c.missing for _, c in counted]),
        ("view_seconds_total", "Time to compute a view's values.", [c.seconds for _, c in counted]),
        (
            "view_bytes_total",
            "Size of the states that a view's values came from.",
            [c.bytes for _, c in counted],
        ),
    )
    for name, help_text, numbers in families:
        yield from metric_head(name, "counter", help_text)
        for (labels, _), by_view in zip(counted, numbers, strict=True):
            for view, number in sorted(by_view.items()):
                yield f'headrace_{name}{{{labels}view="{escape(view)}"}} {number}'


def metric_head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    """The two lines before the samples of a metric."""
    return f"# HELP headrace_{name} {help_text}", f"# TYPE headrace_{name} {kind}"


def escape(label: str) -> str:
    """The value of a label as it stands within quotes."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
