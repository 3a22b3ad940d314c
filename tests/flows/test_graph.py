"""The graph of a project: its parts, what each is made from, and texts that no name can break out of."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copytree, ignore_patterns
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from headrace.config.settings import load_settings
from headrace.flows.build.context import BuildContext
from headrace.flows.project.graph import GraphEdge, GraphNode, ProjectGraph, _find_door, graph
from headrace.flows.project.graph_mermaid import to_mermaid
from headrace.flows.project.graph_svg import to_svg
from headrace.workspace import Workspace

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = '"]</text></svg><script>alert(1)</script>\n  n0 --> n9 %%{init}%% #quot;'


def draw(example: str, folder: Path) -> ProjectGraph:
    copytree(EXAMPLES / example, folder / example, ignore=ignore_patterns("__pycache__", ".headrace"))
    with Workspace(load_settings(folder / example, "local")) as workspace:
        return graph(workspace)


def test_the_graph_leads_from_the_topic_to_the_model(tmp_path: Path) -> None:
    drawn = draw("minimal", tmp_path)
    assert [node.id for node in drawn.nodes] == [
        "topic payments",
        "table card_payments",
        "table payment_labels",
        "view card_activity",
        "view request",
        "model refusal",
    ]
    assert {(edge.of, edge.to) for edge in drawn.edges} == {
        ("topic payments", "table card_payments"),
        ("topic payments", "table payment_labels"),
        ("table card_payments", "view card_activity"),
        ("view card_activity", "view request"),
        ("view card_activity", "model refusal"),
        ("view request", "model refusal"),
        ("table payment_labels", "model refusal"),
    }

    doors = [node.note for node in drawn.nodes if node.kind in ("topic", "model")]
    assert doors == ["/events/payments", "3 features, /predict/refusal"]


def test_a_topic_has_a_door_where_the_collector_takes_its_format(tmp_path: Path) -> None:
    copytree(EXAMPLES / "minimal", tmp_path / "minimal", ignore=ignore_patterns("__pycache__", ".headrace"))
    with Workspace(load_settings(tmp_path / "minimal", "local")) as workspace:
        code = BuildContext(workspace).code
    assert code.formats == {"payments": "json"}
    assert _find_door("payments", code) == "/events/payments"
    assert _find_door("payments", replace(code, formats={"payments": "avro"})) == ""
    assert _find_door("payments", replace(code, formats={})) == ""  # as an earlier version recorded it


def test_mlflow_models_that_a_project_deploys_are_drawn(tmp_path: Path) -> None:
    drawn = draw("multi_python", tmp_path)
    assert drawn.nodes == (GraphNode("deployed", "iris_*", "MLflow models, newest version"),)
    assert ":::deployed" in to_mermaid(drawn)
    assert "iris_*" in to_svg(drawn)


@pytest.mark.parametrize("example", ["shop", "sales"])
def test_each_part_of_a_project_is_drawn_once_and_to_the_right_of_its_inputs(
    example: str, tmp_path: Path
) -> None:
    drawn = draw(example, tmp_path)
    assert {"source", "table", "view", "model"} <= {node.kind for node in drawn.nodes}
    picture = ElementTree.fromstring(to_svg(drawn))
    boxes = {}
    for group in picture.findall("{*}g"):
        title, box = group.find("{*}title"), group.find("{*}rect")
        assert title is not None
        assert title.text is not None
        assert box is not None
        x, y, width, height = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        boxes[" ".join(title.text.split()[:2])] = (x, y, x + width, y + height)
    assert sorted(boxes) == sorted(node.id for node in drawn.nodes)
    for edge in drawn.edges:
        assert boxes[edge.of][2] < boxes[edge.to][0]
    right, bottom = (float(picture.attrib[name]) for name in ("width", "height"))
    places = list(boxes.values())
    for index, (x0, y0, x1, y1) in enumerate(places):
        assert 0 < x0 < x1 < right
        assert 0 < y0 < y1 < bottom
        assert all(x1 < a or c < x0 or y1 < b or d < y0 for a, b, c, d in places[index + 1 :])


def test_no_name_or_note_adds_a_line_or_a_tag() -> None:
    nodes = (GraphNode("source", HOSTILE, HOSTILE, is_stale=True), GraphNode("table", "t", "made \u202e x"))
    drawn = ProjectGraph("p", nodes, (GraphEdge(nodes[0].id, nodes[1].id),))
    picture = ElementTree.fromstring(to_svg(drawn))
    assert {element.tag.rpartition("}")[2] for element in picture.iter()} == {
        *("svg", "path", "g", "title", "rect", "text"),
    }
    assert "\u202e" not in to_svg(drawn)
    lines = to_mermaid(drawn).splitlines()
    assert lines.count("  n0 --> n1") == 1
    assert len([line for line in lines if "-->" in line]) == 1
    (label,) = re.findall(r'^  n0\[/"(.*)"/\]:::source$', "\n".join(lines), re.MULTILINE)
    assert (
        re.sub(r"<br><small>|</small>|#\d+;", "", label).translate({ord(c): None for c in " ()/-,%:"}).isalnum()
    )


def test_a_project_without_parts_is_an_empty_picture() -> None:
    assert ElementTree.fromstring(to_svg(ProjectGraph("p", (), ()))).attrib["aria-label"] == "Graph of p"
    assert to_mermaid(ProjectGraph("p", (), ())).startswith("flowchart LR\n")
