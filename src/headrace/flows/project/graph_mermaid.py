"""The graph of a project as a Mermaid flowchart."""

from __future__ import annotations

from headrace.flows.project.graph import GraphNode, NodeKind, ProjectGraph

__all__ = ["to_mermaid"]

_SHAPES: dict[NodeKind, tuple[str, str]] = {
    "source": ("[/", "/]"),
    "topic": ("([", "])"),
    "table": ("[(", ")]"),
    "view": ("[", "]"),
    "model": ("{{", "}}"),
    "release": ("([", "])"),
    "publication": ("[/", "/]"),
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
    lines += [
        "  classDef source,publication fill:#eceff1,stroke:#546e7a,color:#212121",
        "  classDef topic fill:#fff3e0,stroke:#ef6c00,color:#212121",
        "  classDef table fill:#e8eaf6,stroke:#3f51b5,color:#212121",
        "  classDef view fill:#e0f2f1,stroke:#00796b,color:#212121",
        "  classDef model,release fill:#fce4ec,stroke:#ad1457,color:#212121",
        "  classDef stale stroke-dasharray:5 4,stroke-width:2px",
    ]
    if stale:
        lines.append(f"  class {','.join(stale)} stale")
    return "\n".join(lines) + "\n"


def _label(node: GraphNode) -> str:
    note = (
        "<br><small>" + _quote(", ".join(part for part in (node.note, _stale_word(node)) if part)) + "</small>"
    )
    return f"{_quote(f'{node.kind} {node.name}')}{note if node.note or node.is_stale else ''}"


def _stale_word(node: GraphNode) -> str:
    return "stale" if node.is_stale else ""


def _quote(text: str) -> str:
    """The text for a label in quotes: what is not a letter, a digit or plain punctuation is an entity code."""
    return "".join(c if c.isalnum() or c in " _-.,/:()=+" else f"#{ord(c)};" for c in text)
