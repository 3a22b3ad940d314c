"""Curves: the ROC curve, precision over recall, and the calibration of a model, as one SVG."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.training.evaluation import Evaluation

__all__ = ["svg"]

_SIDE, _MARGIN = 240, 44
Points = Sequence[tuple[float, float]]


def svg(evaluation: Evaluation) -> str:
    """The three plots side by side; each axis runs from 0 to 1, but calibration's to its largest value."""
    metrics, base = evaluation.metrics, evaluation.base_rate
    said = [(one.mean_score, one.share) for one in evaluation.calibration]
    most = max((max(point) for point in said), default=1.0) or 1.0
    plots = [
        _plot(0, f"ROC, area {metrics['roc_auc']:.3f}", "false positive rate", "true positive rate",
              evaluation.curves.roc, [(0, 0), (1, 1)]),
        _plot(1, f"Precision, mean {metrics['pr_auc']:.3f}", "recall", "precision",
              evaluation.curves.pr, [(0, base), (1, base)]),
        _plot(2, f"Calibration, error {metrics['calibration_error']:.3f}", f"mean score (to {most:.2g})",
              f"share that is 1 (to {most:.2g})", [(x / most, y / most) for x, y in said], [(0, 0), (1, 1)]),
    ]  # fmt: skip
    width, height = 3 * (_SIDE + _MARGIN) + _MARGIN, _SIDE + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">{"".join(plots)}</svg>\n'
    )


def _plot(place: int, title: str, across: str, up: str, points: Points, guide: Points) -> str:
    left, top = _MARGIN + place * (_SIDE + _MARGIN), _MARGIN
    middle, bottom = left + _SIDE / 2, top + _SIDE
    return (
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>'
        f'<text x="{middle}" y="{top - 12}" text-anchor="middle" font-weight="bold">{title}</text>'
        f'<text x="{middle}" y="{bottom + 20}" text-anchor="middle">{across}</text>'
        f'<text transform="translate({left - 10} {top + _SIDE / 2}) rotate(-90)" '
        f'text-anchor="middle">{up}</text>'
        f'<polyline points="{_path(left, bottom, guide)}" fill="none" stroke="#bbb" stroke-dasharray="4"/>'
        f'<polyline points="{_path(left, bottom, points)}" fill="none" stroke="#1764ab" stroke-width="2"/>'
    )


def _path(left: float, bottom: float, points: Points) -> str:
    return " ".join(f"{left + x * _SIDE:.1f},{bottom - y * _SIDE:.1f}" for x, y in points)
