"""Draws SVG plots: curves side by side, with axes from 0 to 1, and confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Plot", "draw", "draw_confusion"]

_SIDE, _MARGIN = 240, 44
_CELL, _LABELS = 48, 120
Points = Sequence[tuple[float, float]]


class Plot(NamedTuple):
    """One curve.

    Attributes:
        title: the text above the plot.
        across, up: the names of the axes.
        points: the points of the curve, each coordinate from 0 to 1.
        guide: the points of the dashed reference line.
    """

    title: str
    across: str
    up: str
    points: Points
    guide: Points


def draw(plots: Sequence[Plot]) -> str:
    """Draws the plots side by side."""
    width, height = len(plots) * (_SIDE + _MARGIN) + _MARGIN, _SIDE + 2 * _MARGIN
    return _svg(width, height, "".join(_curve(index, plot) for index, plot in enumerate(plots)))


def draw_confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draws a table of counts, with a row for each true class and a column for each predicted class."""
    largest = max((count for row in counts for count in row), default=1) or 1
    cells = []
    for row, label in enumerate(labels):
        middle = _LABELS + row * _CELL + _CELL / 2
        cells.append(f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(label)}</text>')
        cells.append(f'<text x="{middle}" y="{_LABELS - 8}" text-anchor="middle">{escape(label)}</text>')
        for column, count in enumerate(counts[row]):
            x, y = _LABELS + column * _CELL, _LABELS + row * _CELL
            cells.append(
                f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="#1764ab" '
                f'fill-opacity="{count / largest:.3f}" stroke="#888"/>'
                f'<text x="{x + _CELL / 2}" y="{y + _CELL / 2}" text-anchor="middle">{count}</text>'
            )
    side = _LABELS + len(labels) * _CELL + _MARGIN
    titles = '<text x="8" y="20">rows: true class, columns: predicted class</text>'
    return _svg(side, side, titles + "".join(cells))


def _svg(width: int, height: int, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">{content}</svg>\n'
    )


def _curve(index: int, plot: Plot) -> str:
    left, top = _MARGIN + index * (_SIDE + _MARGIN), _MARGIN
    middle, bottom = left + _SIDE / 2, top + _SIDE
    return (
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>'
        f'<text x="{middle}" y="{top - 12}" text-anchor="middle" font-weight="bold">{plot.title}</text>'
        f'<text x="{middle}" y="{bottom + 20}" text-anchor="middle">{plot.across}</text>'
        f'<text transform="translate({left - 10} {top + _SIDE / 2}) rotate(-90)" '
        f'text-anchor="middle">{plot.up}</text>'
        f'<polyline points="{_path(left, bottom, plot.guide)}" fill="none" stroke="#bbb" stroke-dasharray="4"/>'
        f'<polyline points="{_path(left, bottom, plot.points)}" fill="none" stroke="#1764ab" stroke-width="2"/>'
    )


def _path(left: float, bottom: float, points: Points) -> str:
    return " ".join(f"{left + x * _SIDE:.1f},{bottom - y * _SIDE:.1f}" for x, y in points)
