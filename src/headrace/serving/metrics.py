"""Metrics in Prometheus' text format. Counting costs a few dictionary updates.

Most are of one arm of a model: they have the labels `model`, `version` and `arm`. A replica counts what it
does. A scrape gets the sum over all replicas (headrace.serving.metrics_slot).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field

from headrace.features.online import RowPosition

if TYPE_CHECKING:
    from headrace.features.online import ServedPosition

__all__ = ["ArmMetrics", "Metrics", "ReplicaCounts", "to_text"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
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


def _make_histogram(bounds: tuple[float, ...] = _SECONDS) -> Histogram:
    return Histogram(bounds, [0] * (len(bounds) + 1))


def _add_counts(counts: dict[str, int], others: Mapping[str, int]) -> None:
    for key, count in others.items():
        counts[key] = counts.get(key, 0) + count


class ArmCounts(Struct):
    """What is counted of one arm of a model.

    Attributes:
        model, version, arm: the arm.
        predictions: how many were made.
        errors: code → instances that the arm failed to answer.
        missing: feature → how often it was missing.
        lookup, latency: seconds of the lookup, and of lookup and model, of each call.
        ages: view → seconds that the rows were old.
    """

    model: str
    version: int
    arm: str
    predictions: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    lookup: Histogram = field(default_factory=_make_histogram)
    latency: Histogram = field(default_factory=_make_histogram)
    ages: dict[str, Histogram] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str]:
        """What names the arm."""
        return self.model, self.version, self.arm

    @property
    def labels(self) -> str:
        """`model`, `version` and `arm`, as in the text format."""
        return f'model="{_escape(self.model)}",version="{self.version}",arm="{_escape(self.arm)}",'

    def add(self, other: ArmCounts) -> None:
        """Adds the counts of the same arm in another replica."""
        self.predictions += other.predictions
        _add_counts(self.errors, other.errors)
        _add_counts(self.missing, other.missing)
        self.lookup.add(other.lookup)
        self.latency.add(other.latency)
        for view, ages in other.ages.items():
            self.ages.setdefault(view, _make_histogram(_AGES)).add(ages)


class ReplicaCounts(Struct):
    """All that a replica counts.

    Attributes:
        arms: the counts of each arm.
        answers: HTTP status → responses to prediction requests.
        requests: seconds of each prediction request.
        failed_shadows: requests whose copy a shadow arm could not predict.
    """

    arms: list[ArmCounts] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    requests: Histogram = field(default_factory=_make_histogram)
    failed_shadows: int = 0

    def add(self, other: ReplicaCounts) -> None:
        """Adds the counts of another replica."""
        arms = {counts.key: counts for counts in self.arms}
        for counts in other.arms:
            if counts.key not in arms:
                self.arms.append(ArmCounts(*counts.key))
                arms[counts.key] = self.arms[-1]
            arms[counts.key].add(counts)
        _add_counts(self.answers, other.answers)
        self.requests.add(other.requests)
        self.failed_shadows += other.failed_shadows


class ArmMetrics:
    """Counts what one arm of a model does. The replica's event loop and its threads call it.

    Args:
        counts: the counts, which are updated.
    """

    def __init__(self, counts: ArmCounts) -> None:
        self._counts = counts
        self._lock = threading.Lock()

    def count(
        self,
        seconds: float,
        lookup_seconds: float | None,
        at: int,
        missing: Sequence[Iterable[str]],
        positions: Sequence[Mapping[str, ServedPosition]],
    ) -> None:
        """Counts predictions that were made together.

        Args:
            seconds: what lookup and model took.
            lookup_seconds: what the lookup took; None: there was none.
            at: their moment, microseconds.
            missing: for each, the features that were missing.
            positions: for each, view → the position of its values.
        """
        counts = self._counts
        with self._lock:
            counts.predictions += len(missing)
            counts.latency.observe(seconds)
            if lookup_seconds is not None:
                counts.lookup.observe(lookup_seconds)
            for features in missing:
                for feature in features:
                    counts.missing[feature] = counts.missing.get(feature, 0) + 1
            for views in positions:
                for view, position in views.items():
                    if type(position) is RowPosition and position.time is not None:
                        ages = counts.ages.get(view)
                        if ages is None:
                            ages = counts.ages[view] = _make_histogram(_AGES)
                        ages.observe((at - position.time) * _MICROS)

    def count_errors(self, code: str, number: int) -> None:
        """Counts instances that the arm failed to answer."""
        with self._lock:
            self._counts.errors[code] = self._counts.errors.get(code, 0) + number


class Metrics:
    """Counts what a replica does, by arm and before an arm is chosen.

    Args:
        counts: the counts to begin with.

    Attributes:
        counts: the counts. They are updated at any moment, so they may only be encoded: that is one step.
        behind: model, version, windowed view → how many events of its topic the online store has yet to take.
            The mapping is replaced, never changed.
    """

    def __init__(self, counts: ReplicaCounts | None = None) -> None:
        self.counts = ReplicaCounts() if counts is None else counts
        self.behind: Mapping[tuple[str, int, str], int] = {}
        self._arms = {arm.key: ArmMetrics(arm) for arm in self.counts.arms}
        self._lock = threading.Lock()

    def arm(self, model: str, version: int, arm: str) -> ArmMetrics:
        """The metrics of an arm."""
        metrics = self._arms.get((model, version, arm))
        return self._add_arm(ArmCounts(model, version, arm)) if metrics is None else metrics

    def _add_arm(self, counts: ArmCounts) -> ArmMetrics:
        with self._lock:
            if counts.key not in self._arms:
                self.counts.arms.append(counts)
                self._arms[counts.key] = ArmMetrics(counts)
            return self._arms[counts.key]

    def count_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a prediction request. Only the event loop calls it."""
        key = str(status)
        self.counts.answers[key] = self.counts.answers.get(key, 0) + 1
        self.counts.requests.observe(seconds)

    def count_failed_shadow(self) -> None:
        """Counts a request whose copy a shadow arm could not predict."""
        with self._lock:
            self.counts.failed_shadows += 1


def to_text(counts: ReplicaCounts, behind: Mapping[tuple[str, int, str], int]) -> bytes:
    """The counts, and the gauges of Metrics.behind, in Prometheus' text exposition format."""
    arms = sorted(counts.arms, key=lambda arm: arm.key)
    lines = [*_head("predictions_total", "counter", "Predictions that were made.")]
    lines += [f"headrace_predictions_total{{{arm.labels.rstrip(',')}}} {arm.predictions}" for arm in arms]
    lines += _head("prediction_errors_total", "counter", "Instances that the arm failed to answer.")
    for arm in arms:
        lines += [
            f'headrace_prediction_errors_total{{{arm.labels}code="{_escape(code)}"}} {count}'
            for code, count in sorted(arm.errors.items())
        ]
    lines += _head("missing_features_total", "counter", "Values of features that were missing.")
    for arm in arms:
        lines += [
            f'headrace_missing_features_total{{{arm.labels}feature="{_escape(feature)}"}} {count}'
            for feature, count in sorted(arm.missing.items())
        ]
    lines += _head("prediction_seconds", "histogram", "Lookup and model, per call of an arm.")
    for arm in arms:
        lines += arm.latency.lines("headrace_prediction_seconds", arm.labels)
    lines += _head("lookup_seconds", "histogram", "Lookup of the features, per call of an arm.")
    for arm in arms:
        lines += arm.lookup.lines("headrace_lookup_seconds", arm.labels)
    lines += _head("feature_age_seconds", "histogram", "Age of the row that a view's values came from.")
    for arm in arms:
        for view, ages in sorted(arm.ages.items()):
            labels = f'{arm.labels}view="{_escape(view)}",'
            lines += ages.lines("headrace_feature_age_seconds", labels)
    lines += _head("view_events_behind", "gauge", "Events that a windowed view has yet to take.")
    for (model, version, view), events in sorted(behind.items()):
        labels = f'model="{_escape(model)}",version="{version}",view="{_escape(view)}"'
        lines.append(f"headrace_view_events_behind{{{labels}}} {events}")
    return ("\n".join([*lines, *_request_lines(counts)]) + "\n").encode()


def _request_lines(counts: ReplicaCounts) -> Iterable[str]:
    yield from _head("predict_answers_total", "counter", "HTTP responses to prediction requests.")
    for status, count in sorted(counts.answers.items()):
        yield f'headrace_predict_answers_total{{status="{status}"}} {count}'
    yield from _head("failed_shadows_total", "counter", "Requests that a shadow could not predict.")
    yield f"headrace_failed_shadows_total {counts.failed_shadows}"
    yield from _head("predict_seconds", "histogram", "A prediction request in the replica, as a whole.")
    yield from counts.requests.lines("headrace_predict_seconds", "")


def _head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP headrace_{name} {help_text}", f"# TYPE headrace_{name} {kind}"


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
