"""The command `init`: what a new project may be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.flows.project.init import init
from headrace.kernel.errors import CallError


@pytest.mark.parametrize("name", ["class", "json", "polars", "Feast", "headrace"])
def test_a_package_that_would_hide_another_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallError, match="is not a valid project name"):
        init(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_names_the_package(tmp_path: Path) -> None:
    assert init(tmp_path / "my-Shop").files > 0
    assert (tmp_path / "my-Shop" / "my_shop" / "__init__.py").is_file()
