"""The frame of the demo: which examples it finds, and what its report says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from headrace.demo.demo import Check, DemoOptions, DemoReport, run_demo
from headrace.flows.project.init import examples
from headrace.kernel.errors import CallError

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_examples_are_found_by_their_folders() -> None:
    assert examples() == {path.parent.name: path.parent for path in sorted(EXAMPLES.glob("*/headrace.toml"))}
    assert "shop" in examples()


def test_unknown_example_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="demo 'nowhere' does not exist") as error:
        run_demo("nowhere", tmp_path / "x", DemoOptions(), progress=lambda _step, _name: None)
    assert "shop" in str(error.value.remedy)


def test_report_holds_only_where_every_check_held(tmp_path: Path) -> None:
    report = DemoReport("shop", tmp_path)
    report.checks.append(Check("a", True))
    assert report.passed
    report.checks.append(Check("b", False))
    assert not report.passed


@pytest.mark.parametrize("name", sorted(path.parent.name for path in EXAMPLES.glob("*/demo.py")))
def test_demo_of_an_example_uses_the_public_api_alone(name: str) -> None:
    tree = ast.parse((EXAMPLES / name / "demo.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if module.split(".")[0] == "headrace"} == {"headrace"}
