"""uvicorn's internals that Headrace uses are where they are listed, and the package requires these versions."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

from headrace.http.internals import INTERNALS


@pytest.mark.parametrize(("path", "names"), INTERNALS.items())
def test_the_internals_are_where_they_are_listed(path: str, names: tuple[str, ...]) -> None:
    owner = pkgutil.resolve_name(path)
    source = inspect.getsource(owner)
    missing = [name for name in names if not hasattr(owner, name) and f"self.{name}" not in source]
    assert missing == []
