"""The READMEs of the examples, followed step by step in a project of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.demos import EXAMPLES, follow_readme


@pytest.mark.parametrize("example", ["minimal", "iris"])
def test_each_command_of_a_readme_succeeds(example: str, tmp_path: Path) -> None:
    follow_readme(EXAMPLES / example / "README.md", tmp_path)
