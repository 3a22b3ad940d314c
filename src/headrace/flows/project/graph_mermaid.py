"""The graph of a project as a Mermaid flowchart."""

from __future__ import annotations

from headrace.flows.project.graph import GraphNode, NodeKind, ProjectGraph
from headrace.flows.project.graph_svg import COLORS

__all__ = ["to_mermaid"]

_SHAPES: dict[NodeKind, tuple[str, str]] = {
    "source": ("[/", "/]"),
    "topic": ("([", "])"),
    "table": ("[(", ")]"),
    "view": ("[", "]"),
    "model": ("{{", "}}"),
    "release": ("([", "])"),
    "publication": ("[/", "/]"),
    "deployed": ("{{", "}}"),
}


def to_mermaid(graph: ProjectGraph) -> str:
    """The graph as text; names and notes are quoted, so that none can add a line or a tag."""
    places = {node.id: f"n{index}" for index, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    for node in graph.nodes:
        begin, end = _SHAPES[node.kind]
        lines.append(f'  {places[node.id]}{begin}"{_label(node)}"{end}:::{node.kind}')
    lines += [f"  {places[edge.of]} --> {places[edge.to]}" for edge in graph.edges]
    stale = [places[node.id] for node in graph.nodes if node.is_stale]
    kinds: dict[tuple[str, str], list[str]] = {}
    for kind, colors in COLORS.items():
        kinds.setdefault(colors, []).append(kind)
    for (fill, stroke), names in kinds.items():
        lines.append(f"  classDef {','.join(names)} fill:{fill},stroke:{stroke},color:#212121")
    lines.append("  classDef stale stroke-dasharray:5 4,stroke-width:2px")
    if stale:
        lines.append(f"  class {','.join(stale)} stale")
    return "\n".join(lines) + "\n"


def _label(node: GraphNode) -> str:
    notes = [note for note in (node.note, "stale" if node.is_stale else "") if note]
    below = f"<br><small>{_quote(', '.join(notes))}</small>" if notes else ""
    return _quote(f"{node.kind} {node.name}") + below


def _quote(text: str) -> str:
    """The text for a label in quotes: what is not a letter, a digit or plain punctuation is an entity code."""
    return "".join(c if c.isalnum() or c in " _-.,/:()=+" else f"#{ord(c)};" for c in text)
