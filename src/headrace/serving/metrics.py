"""Metrics of one replica in Prometheus' text format. Counting costs a few dictionary updates.

Most are of one arm of a model: they have the labels `model`, `version` and `arm`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from headrace.serving.view_metrics import Histogram, ViewMetrics, escape, metric_head, view_lines

__all__ = ["ArmMetrics", "Metrics"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class ArmMetrics:
    """What is counted of one arm of a model. The replica's event loop and its threads update it.

    Attributes:
        labels: `model`, `version` and `arm`, as in the text format.
        views: what is counted of the views of its plan.
    """

    def __init__(self, model: str, version: int, arm: str) -> None:
        self.labels = f'model="{escape(model)}",version="{version}",arm="{escape(arm)}",'
        self._lock = threading.Lock()
        self.predictions = 0
        self.errors: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.lookup, self.latency = Histogram(_SECONDS), Histogram(_SECONDS)
        self.views = ViewMetrics(self.labels)

    def count(
        self,
        seconds: float,
        lookup_seconds: float | None,
        missing: Sequence[Iterable[str]],
    ) -> None:
        """Counts predictions that were made together.

        Args:
            seconds: what lookup and model took.
            lookup_seconds: what the lookup took; None: there was none.
            missing: for each, the features that were missing.
        """
        with self._lock:
            self.predictions += len(missing)
            self.latency.observe(seconds)
            if lookup_seconds is not None:
                self.lookup.observe(lookup_seconds)
            for features in missing:
                for feature in features:
                    self.missing[feature] += 1

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
        self._requests = Histogram(_SECONDS)
        self._failed_shadows = 0
        self._services: dict[tuple[str, str, int], ViewMetrics] = {}
        self._feature_answers: Counter[int] = Counter()
        self._feature_requests = Histogram(_SECONDS)
        self.behind: Mapping[tuple[str, int, str], int] = {}

    def arm(self, model: str, version: int, arm: str) -> ArmMetrics:
        """The metrics of an arm."""
        key = (model, version, arm)
        metrics = self._arms.get(key)
        return self._arms.setdefault(key, ArmMetrics(*key)) if metrics is None else metrics

    def service(self, service: str, model: str, version: int) -> ViewMetrics:
        """The metrics of the views that a feature service was answered from."""
        key = (service, model, version)
        metrics = self._services.get(key)
        if metrics is None:
            labels = f'service="{escape(service)}",model="{escape(model)}",version="{version}",'
            metrics = self._services.setdefault(key, ViewMetrics(labels))
        return metrics

    def count_feature_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a request for features."""
        self._feature_answers[status] += 1
        self._feature_requests.observe(seconds)

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
        lines = [*metric_head("predictions_total", "counter", "Predictions that were made.")]
        lines += [f"headrace_predictions_total{{{arm.labels.rstrip(',')}}} {arm.predictions}" for arm in arms]
        lines += metric_head("prediction_errors_total", "counter", "Instances that the arm failed to answer.")
        for arm in arms:
            lines += [
                f'headrace_prediction_errors_total{{{arm.labels}code="{escape(code)}"}} {count}'
                for code, count in sorted(arm.errors.items())
            ]
        lines += metric_head("missing_features_total", "counter", "Values of features that were missing.")
        for arm in arms:
            lines += [
                f'headrace_missing_features_total{{{arm.labels}feature="{escape(feature)}"}} {count}'
                for feature, count in sorted(arm.missing.items())
            ]
        lines += metric_head("prediction_seconds", "histogram", "Lookup and model, per call of an arm.")
        for arm in arms:
            lines += arm.latency.lines("headrace_prediction_seconds", arm.labels)
        lines += metric_head("lookup_seconds", "histogram", "Lookup of the features, per call of an arm.")
        for arm in arms:
            lines += arm.lookup.lines("headrace_lookup_seconds", arm.labels)
        services = [metrics for _, metrics in sorted(self._services.items())]
        lines += view_lines([*(arm.views for arm in arms), *services])
        lines += metric_head("view_events_behind", "gauge", "Events that a windowed view has yet to take.")
        for (model, version, view), events in sorted(self.behind.items()):
            labels = f'model="{escape(model)}",version="{version}",view="{escape(view)}"'
            lines.append(f"headrace_view_events_behind{{{labels}}} {events}")
        return ("\n".join([*lines, *self._request_lines()]) + "\n").encode()

    def _request_lines(self) -> Iterable[str]:
        yield from metric_head("predict_answers_total", "counter", "HTTP responses to prediction requests.")
        for status, count in sorted(self._answers.items()):
            yield f'headrace_predict_answers_total{{status="{status}"}} {count}'
        yield from metric_head("failed_shadows_total", "counter", "Requests that a shadow could not predict.")
        yield f"headrace_failed_shadows_total {self._failed_shadows}"
        yield from metric_head("predict_seconds", "histogram", "A prediction request as a whole.")
        yield from self._requests.lines("headrace_predict_seconds", "")
        yield from metric_head("features_answers_total", "counter", "HTTP responses to requests for features.")
        for status, count in sorted(self._feature_answers.items()):
            yield f'headrace_features_answers_total{{status="{status}"}} {count}'
        yield from metric_head("features_seconds", "histogram", "A request for features, as a whole.")
        yield from self._feature_requests.lines("headrace_features_seconds", "")
