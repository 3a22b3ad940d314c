"""The stage graph of a project, made from its fingerprints."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.code.external import ExternalDigests
from headrace.config.settings import make_settings
from headrace.flows.build.graph import StageGraph
from headrace.flows.build.project_code import ModelCode, ProjectCode, PublicationCode, Read, SourceCode
from headrace.flows.build.stages import KINDS
from headrace.kernel.errors import CallError

CODE = ProjectCode(
    source_digest="",
    external=ExternalDigests({}, {}),
    lock="none",
    sources={"prices": SourceCode("data/prices.csv")},
    topics={"clicks": "clicks"},
    contracts={"clicks": ["clicks.at 1"]},
    contract_digests={"clicks": "digest"},
    tables={"clean": ["clean 1"], "catalogue": ["catalogue 1"], "labels": ["labels 1"]},
    reads={
        "clean": [Read("topics", "clicks")],
        "catalogue": [Read("sources", "prices")],
        "labels": [Read("tables", "clean")],
    },
    features=["view 1"],
    models={"buys": ModelCode("labels", ["clean"], "plan", 0.0, ["a 1"], ["b 1"], ["c 1"])},
    publications={"star": PublicationCode("warehouse", ["clean"], ["star 1"])},
)


@pytest.fixture
def graph(tmp_path: Path) -> StageGraph:
    return StageGraph.of_project(
        CODE,
        make_settings(
            tmp_path,
            "shop",
            state=tmp_path / "state",
            values={"databases": {"warehouse": "postgresql://127.0.0.1/shop"}},
        ),
    )


def stage_names(graph: StageGraph, *targets: str) -> list[str]:
    return [stage.name for stage in graph.select(targets)]


def test_every_stage_comes_after_the_stages_it_needs(graph: StageGraph) -> None:
    seen: set[str] = set()
    for stage in graph.stages:
        assert seen >= set(graph.needs_of(stage)), stage.name
        seen.add(stage.name)
    assert {type(stage) for stage in graph.stages} == set(KINDS)


def test_a_target_is_built_with_what_it_needs(graph: StageGraph) -> None:
    assert stage_names(graph, "labels") == ["code", "table-clean", "table-labels"]
    assert stage_names(graph, "table-catalogue") == ["code", "source-prices", "table-catalogue"]


def test_a_model_target_includes_its_release_and_the_online_store(graph: StageGraph) -> None:
    names = stage_names(graph, "buys")
    assert names[-1] == "release-buys"
    assert "online" in names
    assert "table-catalogue" not in names


def test_an_unknown_target_is_refused_and_the_known_ones_are_listed(graph: StageGraph) -> None:
    with pytest.raises(CallError, match="'lost' is not a table, model or stage") as refused:
        graph.select(["lost"])
    assert "buys, catalogue, clean, labels" in str(refused.value.remedy)


def test_the_dependents_of_a_source_include_indirect_readers(graph: StageGraph) -> None:
    assert graph.dependents_of(["pointers/sources/prices.json"]) == {"table-catalogue"}
    assert {"table-labels", "online", "release-buys"} <= graph.dependents_of(["pointers/topics/clicks.json"])


def test_every_parameter_is_an_entry_of_the_project_code(graph: StageGraph) -> None:
    for stage in graph.stages:
        for parameter in stage.params:
            assert CODE.parameter(parameter.key) is not None
