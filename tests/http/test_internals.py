"""uvicorn's internals that Headrace uses are where they are listed, and the package requires these versions."""

from __future__ import annotations

import inspect
import pkgutil
import tomllib
from pathlib import Path

import pytest

from headrace.http.internals import INTERNALS, VERSIONS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize(("path", "names"), INTERNALS.items())
def test_the_internals_are_where_they_are_listed(path: str, names: tuple[str, ...]) -> None:
    owner = pkgutil.resolve_name(path)
    source = inspect.getsource(owner)
    missing = [name for name in names if not hasattr(owner, name) and f"self.{name}" not in source]
    assert missing == []


def test_the_versions_are_those_of_the_package() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert f"uvicorn>={VERSIONS[0]},<{VERSIONS[1]}" in dependencies
