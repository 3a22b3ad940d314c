"""Metrics of one replica in Prometheus' text format. Counting costs a few dictionary updates.

Most are of one arm of a model: they have the labels `model`, `version` and `arm`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.features.online import RowPosition

if TYPE_CHECKING:
    from headrace.features.online import ServedPosition

__all__ = ["ArmMetrics", "Metrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_AGES = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)  # seconds
_MICROS = 1e-6


class _Histogram:
    """Numbers of observations up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
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


class ArmMetrics:
    """What is counted of one arm of a model. The replica's event loop and its threads update it.

    Attributes:
        labels: `model`, `version` and `arm`, as in the text format.
    """

    def __init__(self, model: str, version: int, arm: str) -> None:
        self.labels = f'model="{_escape(model)}",version="{version}",arm="{_escape(arm)}",'
        self._lock = threading.Lock()
        self.predictions = 0
        self.errors: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.lookup, self.latency = _Histogram(_SECONDS), _Histogram(_SECONDS)
        self.ages: dict[str, _Histogram] = {}

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
        with self._lock:
            self.predictions += len(missing)
            self.latency.observe(seconds)
            if lookup_seconds is not None:
                self.lookup.observe(lookup_seconds)
            for features in missing:
                for feature in features:
                    self.missing[feature] += 1
            for views in positions:
                for view, position in views.items():
                    if type(position) is RowPosition and position.time is not None:
                        ages = self.ages.get(view)
                        if ages is None:
                            ages = self.ages[view] = _Histogram(_AGES)
                        ages.observe((at - position.time) * _MICROS)

    def count_errors(self, code: str, number: int) -> None:
        """Counts instances that the arm failed to answer."""
        with self._lock:
            self.errors[code] += number


class Metrics:
    """The metrics of every arm, and of the requests before an arm is chosen.

    Attributes:
        behind: model, version, windowed view → how many events of its topic the online store has yet to take.
            The mapping is replaced, never changed.
    """

    def __init__(self) -> None:
        self._arms: dict[tuple[str, int, str], ArmMetrics] = {}
        self._answers: Counter[int] = Counter()
        self._requests = _Histogram(_SECONDS)
        self._failed_shadows = 0
        self.behind: Mapping[tuple[str, int, str], int] = {}

    def arm(self, model: str, version: int, arm: str) -> ArmMetrics:
        """The metrics of an arm."""
        key = (model, version, arm)
        metrics = self._arms.get(key)
        return self._arms.setdefault(key, ArmMetrics(*key)) if metrics is None else metrics

    def count_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a prediction request."""
        self._answers[status] += 1
        self._requests.observe(seconds)

    def count_failed_shadow(self) -> None:
        """Counts a request whose copy a shadow arm could not predict."""
        self._failed_shadows += 1

    def text(self) -> bytes:
        """All metrics in Prometheus' text exposition format."""
        arms = [metrics for _, metrics in sorted(self._arms.items())]
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
        for (model, version, view), events in sorted(self.behind.items()):
            labels = f'model="{_escape(model)}",version="{version}",view="{_escape(view)}"'
            lines.append(f"headrace_view_events_behind{{{labels}}} {events}")
        return ("\n".join([*lines, *self._request_lines()]) + "\n").encode()

    def _request_lines(self) -> Iterable[str]:
        yield from _head("predict_answers_total", "counter", "HTTP responses to prediction requests.")
        for status, count in sorted(self._answers.items()):
            yield f'headrace_predict_answers_total{{status="{status}"}} {count}'
        yield from _head("failed_shadows_total", "counter", "Requests that a shadow could not predict.")
        yield f"headrace_failed_shadows_total {self._failed_shadows}"
        yield from _head("predict_seconds", "histogram", "A prediction request in the replica, as a whole.")
        yield from self._requests.lines("headrace_predict_seconds", "")


def _head(name: str, kind: str, help_text: str) -> tuple[str, str]:
    return f"# HELP headrace_{name} {help_text}", f"# TYPE headrace_{name} {kind}"


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
