"""The graph of a project as an SVG picture: columns from left to right, in the order of the data flow.

It has no style sheet and no script, only attributes, so that a page with a strict content policy may show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from headrace.flows.project.graph import GraphEdge, GraphNode, NodeKind, ProjectGraph

__all__ = ["COLORS", "to_svg"]

COLORS: dict[NodeKind, tuple[str, str]] = {
    "source": ("#eceff1", "#546e7a"),
    "topic": ("#fff3e0", "#ef6c00"),
    "table": ("#e8eaf6", "#3f51b5"),
    "view": ("#e0f2f1", "#00796b"),
    "model": ("#fce4ec", "#ad1457"),
    "release": ("#fce4ec", "#ad1457"),
    "publication": ("#eceff1", "#546e7a"),
    "deployed": ("#fce4ec", "#ad1457"),
}
"""Kind of a node → the colors of its area and of its border."""
_HEIGHT, _GAP, _BETWEEN, _MARGIN = 58, 18, 56, 12  # of a box, between boxes, between columns, around all
_BEND = 14  # the height that an edge takes in a column that it passes
_LETTER, _PADDING = 7.4, 22.0  # the width of a letter, and of the space around a text
_LONGEST = 34  # letters of a line; a longer one is cut
_SWEEPS = 4


class _Place(NamedTuple):
    """Where a node, or an edge that passes a column, is drawn: its left edge, its middle, its width."""

    x: float
    y: float
    width: float


def to_svg(graph: ProjectGraph) -> str:
    """The graph as text of an SVG image."""
    columns, paths = _divide(graph)
    _order(columns, paths)
    nodes = {node.id: node for node in graph.nodes}
    places, width, height = _put(columns, nodes)
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" font-family="system-ui, sans-serif" font-size="13"'
        f' role="img" aria-label="{escape(f"Graph of {graph.project}")}">'
    )
    parts = [begin]
    parts += [_draw_path([places[point] for point in path]) for path in paths]
    parts += [_draw_node(node, places[node.id]) for node in graph.nodes]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _divide(graph: ProjectGraph) -> tuple[list[list[str]], list[list[str]]]:
    """The ids in each column, and the ids on the way of each edge. A node stands behind all that it is made
    from; an edge over several columns has an id of its own in each column between."""
    ranks: dict[str, int] = {}
    for node in graph.nodes:
        before = [ranks[edge.of] + 1 for edge in graph.edges if edge.to == node.id and edge.of in ranks]
        ranks[node.id] = max(before, default=0)
    columns: list[list[str]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    for node in graph.nodes:
        columns[ranks[node.id]].append(node.id)
    paths = []
    for edge in graph.edges:
        bends = [_bend(edge, column) for column in range(ranks[edge.of] + 1, ranks[edge.to])]
        for column, bend in enumerate(bends, ranks[edge.of] + 1):
            columns[column].append(bend)
        paths.append([edge.of, *bends, edge.to])
    return columns, paths


def _bend(edge: GraphEdge, column: int) -> str:
    return f"{edge.of} > {edge.to} {column}"


def _order(columns: list[list[str]], paths: Sequence[Sequence[str]]) -> None:
    """Orders each column by the middle of the neighbours' places, from left to right and back."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for path in paths:
        for left, right in pairwise(path):
            before.setdefault(right, []).append(left)
            after.setdefault(left, []).append(right)
    for sweep in range(_SWEEPS):
        neighbours, walk = (before, columns) if sweep % 2 == 0 else (after, columns[::-1])
        for column in walk:
            shares = {name: (index + 0.5) / len(other) for other in columns for index, name in enumerate(other)}
            middles = {
                name: sum(shares[other] for other in others) / len(others)
                for name in column
                if (others := neighbours.get(name))
            }
            order = {name: middles.get(name, shares[name]) for name in column}
            column.sort(key=order.__getitem__)


def _put(
    columns: Sequence[Sequence[str]], nodes: Mapping[str, GraphNode]
) -> tuple[dict[str, _Place], float, float]:
    """The place of each id, and the size of the picture. Each column is in the middle of the height."""
    heights = [
        sum(_HEIGHT if name in nodes else _BEND for name in column) + _GAP * (len(column) - 1)
        for column in columns
    ]
    tallest, x = max(heights, default=0), float(_MARGIN)
    places: dict[str, _Place] = {}
    for column, height in zip(columns, heights, strict=True):
        width = max((_measure(nodes[name]) for name in column if name in nodes), default=0.0)
        y = _MARGIN + (tallest - height) / 2
        for name in column:
            size = _HEIGHT if name in nodes else _BEND
            places[name] = _Place(x, y + size / 2, width)
            y += size + _GAP
        x += width + _BETWEEN
    return places, x - _BETWEEN + _MARGIN, tallest + 2 * _MARGIN


def _measure(node: GraphNode) -> float:
    return max(len(_cut(line)) for line in (node.kind, node.name, node.note)) * _LETTER + _PADDING


def _cut(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _draw_path(points: Sequence[_Place]) -> str:
    start = points[0]
    x, y = start.x + start.width, start.y
    commands = [f"M{x:.0f} {y:.0f}"]
    for point in points[1:]:
        middle = (x + point.x) / 2
        commands.append(f"C{middle:.0f} {y:.0f} {middle:.0f} {point.y:.0f} {point.x:.0f} {point.y:.0f}")
        x, y = point.x, point.y
        if point is not points[-1]:
            x += point.width
            commands.append(f"H{x:.0f}")
    tip = f"M{x - 6:.0f} {y - 4:.0f}L{x:.0f} {y:.0f}L{x - 6:.0f} {y + 4:.0f}"
    return f'<path d="{" ".join(commands)} {tip}" fill="none" stroke="#8a94a0" stroke-width="1.4"/>'


def _draw_node(node: GraphNode, place: _Place) -> str:
    fill, stroke = COLORS[node.kind]
    top, middle = place.y - _HEIGHT / 2, place.x + place.width / 2
    dashes = ' stroke-dasharray="5 4"' if node.is_stale else ""
    kind = f"{node.kind}, stale" if node.is_stale else node.kind
    lines = [(kind, 16, 11, "#555", ""), (node.name, 33, 13, "#111", ' font-weight="600"')]
    lines.append((node.note, 49, 11, "#555", ""))
    texts = "".join(
        f'<text x="{middle:.0f}" y="{top + down:.0f}" font-size="{size}" fill="{color}"'
        f' text-anchor="middle"{weight}>{escape(_cut(text))}</text>'
        for text, down, size, color, weight in lines
        if text
    )
    return (
        f"<g><title>{escape(' '.join(_clean(text) for text in (kind, node.name, node.note)))}</title>"
        f'<rect x="{place.x:.0f}" y="{top:.0f}" width="{place.width:.0f}" height="{_HEIGHT}" rx="7"'
        f' fill="{fill}" stroke="{stroke}"{dashes}/>{texts}</g>'
    )


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text)
