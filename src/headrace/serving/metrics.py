"""Metrics in Prometheus' text format. Counting costs a few dictionary updates.

Most are of one arm of a model: they have the labels `model`, `version` and `arm`. A replica counts what it
does. A scrape gets the sum over all replicas (headrace.serving.metrics_slot).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from msgspec import Struct, field

from headrace.serving.view_metrics import (
    Histogram,
    ViewCounts,
    ViewMetrics,
    add_counts,
    escape,
    make_histogram,
    metric_head,
    view_lines,
)

__all__ = ["ArmMetrics", "Metrics", "ReplicaCounts", "to_text"]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_make_seconds = partial(make_histogram, _SECONDS)


class ArmCounts(Struct):
    """What is counted of one arm of a model.

    Attributes:
        model, version, arm: the arm.
        predictions: how many were made and logged.
        errors: code → instances that the arm failed to answer.
        missing: feature → how often it was missing.
        lookup, latency: seconds of the lookup, and of lookup and model, of each call.
        views: what is counted of the views of its plan.
    """

    model: str
    version: int
    arm: str
    predictions: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    lookup: Histogram = field(default_factory=_make_seconds)
    latency: Histogram = field(default_factory=_make_seconds)
    views: ViewCounts = field(default_factory=ViewCounts)

    @property
    def key(self) -> tuple[str, int, str]:
        """What names the arm."""
        return self.model, self.version, self.arm

    @property
    def labels(self) -> str:
        """`model`, `version` and `arm`, as in the text format."""
        return f'model="{escape(self.model)}",version="{self.version}",arm="{escape(self.arm)}",'

    def add(self, other: ArmCounts) -> None:
        """Adds the counts of the same arm in another replica."""
        self.predictions += other.predictions
        add_counts(self.errors, other.errors)
        add_counts(self.missing, other.missing)
        self.lookup.add(other.lookup)
        self.latency.add(other.latency)
        self.views.add(other.views)


class ServiceCounts(Struct):
    """What is counted of one feature service.

    Attributes:
        service, model, version: the service, and the version whose plan it is answered from.
        views: what is counted of the views of the plan.
    """

    service: str
    model: str
    version: int
    views: ViewCounts = field(default_factory=ViewCounts)

    @property
    def key(self) -> tuple[str, str, int]:
        """What names the service."""
        return self.service, self.model, self.version

    @property
    def labels(self) -> str:
        """`service`, `model` and `version`, as in the text format."""
        return f'service="{escape(self.service)}",model="{escape(self.model)}",version="{self.version}",'


class ReplicaCounts(Struct):
    """All that a replica counts.

    Attributes:
        arms: the counts of each arm.
        answers: HTTP status → responses to prediction requests.
        requests: seconds of each prediction request.
        full_spools: requests that were refused because the spool had reached its limit.
        failed_shadows: requests whose copy a shadow arm could not predict.
        shed_shadows: requests that were not copied to the shadows, because the replica was too busy.
        services: the counts of each feature service.
        feature_answers: HTTP status → responses to requests for features.
        feature_requests: seconds of each request for features.
    """

    arms: list[ArmCounts] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    requests: Histogram = field(default_factory=_make_seconds)
    failed_shadows: int = 0
    full_spools: int = 0
    shed_shadows: int = 0
    services: list[ServiceCounts] = field(default_factory=list)
    feature_answers: dict[str, int] = field(default_factory=dict)
    feature_requests: Histogram = field(default_factory=_make_seconds)

    def add(self, other: ReplicaCounts) -> None:
        """Adds the counts of another replica."""
        arms = {counts.key: counts for counts in self.arms}
        for counts in other.arms:
            if counts.key not in arms:
                self.arms.append(ArmCounts(*counts.key))
                arms[counts.key] = self.arms[-1]
            arms[counts.key].add(counts)
        add_counts(self.answers, other.answers)
        self.requests.add(other.requests)
        self.failed_shadows += other.failed_shadows
        self.full_spools += other.full_spools
        self.shed_shadows += other.shed_shadows
        services = {counts.key: counts for counts in self.services}
        for service in other.services:
            if service.key not in services:
                self.services.append(ServiceCounts(*service.key))
                services[service.key] = self.services[-1]
            services[service.key].views.add(service.views)
        add_counts(self.feature_answers, other.feature_answers)
        self.feature_requests.add(other.feature_requests)


class ArmMetrics:
    """Counts what one arm of a model does. The replica's event loop and its threads call it.

    Args:
        counts: the counts, which are updated.

    Attributes:
        views: counts what the views of its plan give.
    """

    def __init__(self, counts: ArmCounts) -> None:
        self._counts = counts
        self.views = ViewMetrics(counts.views)
        self._lock = threading.Lock()

    def count(
        self,
        seconds: float,
        lookup_seconds: float | None,
        missing: Sequence[Iterable[str]],
    ) -> None:
        """Counts predictions that were made together, and are logged.

        Args:
            seconds: what lookup and model took.
            lookup_seconds: what the lookup took; None: there was none.
            missing: for each, the features that were missing.
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
        self._services = {service.key: ViewMetrics(service.views) for service in self.counts.services}
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

    def service(self, service: str, model: str, version: int) -> ViewMetrics:
        """The metrics of the views that a feature service was answered from."""
        metrics = self._services.get((service, model, version))
        return self._add_service(ServiceCounts(service, model, version)) if metrics is None else metrics

    def _add_service(self, counts: ServiceCounts) -> ViewMetrics:
        with self._lock:
            if counts.key not in self._services:
                self.counts.services.append(counts)
                self._services[counts.key] = ViewMetrics(counts.views)
            return self._services[counts.key]

    def count_feature_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a request for features. Only the event loop calls it."""
        add_counts(self.counts.feature_answers, {str(status): 1})
        self.counts.feature_requests.observe(seconds)

    def count_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a prediction request. Only the event loop calls it."""
        add_counts(self.counts.answers, {str(status): 1})
        self.counts.requests.observe(seconds)

    def count_full_spool(self) -> None:
        """Counts a request that was refused because the spool had reached its limit."""
        with self._lock:
            self.counts.full_spools += 1

    def count_failed_shadow(self) -> None:
        """Counts a request whose copy a shadow arm could not predict."""
        with self._lock:
            self.counts.failed_shadows += 1

    def count_shed_shadow(self, requests: int = 1) -> None:
        """Counts requests that were not copied to the shadows."""
        with self._lock:
            self.counts.shed_shadows += requests


def to_text(counts: ReplicaCounts, behind: Mapping[tuple[str, int, str], int], spool_bytes: int = 0) -> bytes:
    """The counts, the gauges of Metrics.behind, and the size of the spool, in Prometheus' text format."""
    arms = sorted(counts.arms, key=lambda arm: arm.key)
    lines = [*metric_head("predictions_total", "counter", "Predictions that were made and logged.")]
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
    services = sorted(counts.services, key=lambda service: service.key)
    viewed = [(arm.labels, arm.views) for arm in arms]
    lines += view_lines(viewed + [(service.labels, service.views) for service in services])
    lines += metric_head("view_events_behind", "gauge", "Events that a windowed view has yet to take.")
    for (model, version, view), events in sorted(behind.items()):
        labels = f'model="{escape(model)}",version="{version}",view="{escape(view)}"'
        lines.append(f"headrace_view_events_behind{{{labels}}} {events}")
    lines += metric_head("spool_bytes", "gauge", "Bytes of predictions that wait for the log.")
    lines.append(f"headrace_spool_bytes {spool_bytes}")
    return ("\n".join([*lines, *_request_lines(counts)]) + "\n").encode()


def _request_lines(counts: ReplicaCounts) -> Iterable[str]:
    yield from metric_head("predict_answers_total", "counter", "HTTP responses to prediction requests.")
    for status, count in sorted(counts.answers.items()):
        yield f'headrace_predict_answers_total{{status="{status}"}} {count}'
    yield from metric_head("full_spools_total", "counter", "Requests refused because the spool was full.")
    yield f"headrace_full_spools_total {counts.full_spools}"
    yield from metric_head("failed_shadows_total", "counter", "Requests that a shadow could not predict.")
    yield f"headrace_failed_shadows_total {counts.failed_shadows}"
    yield from metric_head("shed_shadows_total", "counter", "Requests that were not copied to the shadows.")
    yield f"headrace_shed_shadows_total {counts.shed_shadows}"
    yield from metric_head("predict_seconds", "histogram", "A prediction request in the replica, as a whole.")
    yield from counts.requests.lines("headrace_predict_seconds", "")
    yield from metric_head("features_answers_total", "counter", "HTTP responses to requests for features.")
    for status, count in sorted(counts.feature_answers.items()):
        yield f'headrace_features_answers_total{{status="{status}"}} {count}'
    yield from metric_head("features_seconds", "histogram", "A request for features, as a whole.")
    yield from counts.feature_requests.lines("headrace_features_seconds", "")
