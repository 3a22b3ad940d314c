"""Metrics of one replica in Prometheus' text format. Counting costs a few dictionary updates."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

__all__ = ["Metrics"]

_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # seconds


class Metrics:
    """Counters and one histogram. The replica's event loop and its threads update them."""

    def __init__(self) -> None:
        self._predictions: Counter[tuple[str, int, str]] = Counter()
        self._missing: Counter[tuple[str, str]] = Counter()
        self._answers: Counter[int] = Counter()
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._failed_shadows = 0

    def count_answer(self, status: int, seconds: float) -> None:
        """Counts one HTTP response to a prediction request."""
        self._answers[status] += 1
        self._seconds += seconds
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1

    def count_prediction(self, model: str, version: int, arm: str, missing: Iterable[str]) -> None:
        """Counts one prediction, and the features that were missing."""
        self._predictions[model, version, arm] += 1
        for feature in missing:
            self._missing[model, feature] += 1

    def count_failed_shadow(self) -> None:
        """Counts a request whose copy a shadow arm could not predict."""
        self._failed_shadows += 1

    def text(self) -> bytes:
        """All metrics in Prometheus' text exposition format."""
        lines = ["# TYPE headrace_predictions_total counter"]
        for (model, version, arm), count in sorted(self._predictions.items()):
            labels = f'model="{_escape(model)}",version="{version}",arm="{_escape(arm)}"'
            lines.append(f"headrace_predictions_total{{{labels}}} {count}")
        lines.append("# TYPE headrace_missing_features_total counter")
        for (model, feature), count in sorted(self._missing.items()):
            labels = f'model="{_escape(model)}",feature="{_escape(feature)}"'
            lines.append(f"headrace_missing_features_total{{{labels}}} {count}")
        lines.append("# TYPE headrace_predict_answers_total counter")
        for status, count in sorted(self._answers.items()):
            lines.append(f'headrace_predict_answers_total{{status="{status}"}} {count}')
        lines.append("# TYPE headrace_failed_shadows_total counter")
        lines.append(f"headrace_failed_shadows_total {self._failed_shadows}")
        lines.append("# TYPE headrace_predict_seconds histogram")
        total = 0
        for bound, count in zip((*_BOUNDS, "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(f'headrace_predict_seconds_bucket{{le="{bound}"}} {total}')
        lines.append(f"headrace_predict_seconds_sum {self._seconds:.6f}")
        lines.append(f"headrace_predict_seconds_count {total}")
        return ("\n".join(lines) + "\n").encode()


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
