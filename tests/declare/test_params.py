"""params.yaml, read by a project's modules."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import write

from headrace.config.settings import load_settings
from headrace.declare.params import read_params
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import load_modules

PARAMS = """\
estimator: svm
grid:
  svm: {C: [0.1, 1], gamma: [1e-3]}
  knn: {n_neighbors: [3]}
since: 2020-01-31
enabled: yes
"""


def load(root: Path, code: str, params: str | None = PARAMS) -> dict[str, Any]:
    """The values of a module with this code in a project with this params.yaml."""
    write(root, f"from headrace import params\n{code}")
    if params is not None:
        (root / "params.yaml").write_text(params)
    return vars(load_modules(load_settings(root))[-1])


def test_values_have_the_types_of_yaml_1_2_as_in_dvc(tmp_path: Path) -> None:
    values = load(tmp_path / "p", 'ALL = params()\nE = params("estimator")\nG = params("grid.svm.gamma")')
    assert values["E"] == "svm"
    assert values["G"] == [0.001]  # YAML 1.1 would say the text "1e-3"
    assert values["ALL"]["since"] == datetime.date(2020, 1, 31)
    assert values["ALL"]["enabled"] == "yes"


def test_a_function_that_a_module_calls_may_read_params(tmp_path: Path) -> None:
    code = 'def read(name):\n    return params(f"grid.{name}")\nGRID = read(params("estimator"))'
    assert load(tmp_path / "p", code)["GRID"] == {"C": [0.1, 1], "gamma": [0.001]}


@pytest.mark.parametrize(
    ("code", "what", "remedy"),
    [
        ('params("estimater")', "no entry 'estimater'", "estimator, grid, since, enabled"),
        ('params("grid.svc")', "no entry 'grid.svc'", "The entries of grid are svm, knn"),
        ('params("estimator.C")', "no entry 'estimator.C'", "estimator has no entries"),
        ('params("estimator", choices=["knn", "tree"])', "estimator: 'svm'", "'knn', 'tree'"),
    ],
)
def test_an_unknown_entry_or_choice_is_refused_and_the_known_ones_are_listed(
    tmp_path: Path, code: str, what: str, remedy: str
) -> None:
    with pytest.raises(ProjectError) as refused:
        load(tmp_path / "p", code)
    assert what in refused.value.what
    assert remedy in str(refused.value.remedy)
    assert "tables.py:2" in f"{refused.value.where} {refused.value.remedy}"


@pytest.mark.parametrize(
    ("text", "what"), [("a: [1", "not valid YAML"), ("- a", "not a mapping"), ("a: 1\na: 2", "not valid YAML")]
)
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ProjectError, match=what) as refused:
        load(tmp_path / "p", 'params("a")', text)
    assert refused.value.where == str(tmp_path / "p" / "params.yaml")


def test_a_missing_file_is_refused_where_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no params") as refused:
        load(tmp_path / "p", 'params("a")', None)
    assert "tables.py:2" in str(refused.value.where)
    assert read_params(tmp_path / "p") == {}


def test_a_function_that_runs_after_the_import_may_not_read_params(tmp_path: Path) -> None:
    values = load(tmp_path / "p", 'def late():\n    return params("estimator")')
    with pytest.raises(ProjectError, match="runs after its module was imported"):
        values["late"]()


def test_an_edit_of_the_file_is_seen_by_the_next_load_in_the_same_process(tmp_path: Path) -> None:
    code = 'E = params("estimator")'
    assert load(tmp_path / "p", code)["E"] == "svm"
    (tmp_path / "p" / "params.yaml").write_text(PARAMS.replace("svm\ngrid", "knn\ngrid"))
    assert vars(load_modules(load_settings(tmp_path / "p"))[-1])["E"] == "knn"
