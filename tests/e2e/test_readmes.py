"""The READMEs of the examples, followed step by step in a project of one's own.

That of the shop is followed for the guide (tests/docs/test_guide.py), those of the sales and of iris in the
projects of their demos.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.blocks import ID, find_blocks, split_commands
from tests.e2e.demos import EXAMPLES, follow_readme

FEWER_CUSTOMERS = {
    command: f"{command} --customers 3000"
    for command in ("python generate.py --version 1", "python generate.py --version 2")
}


def test_the_commands_of_minimal_are_those_of_the_readme() -> None:
    """tests/docs/test_readme.py runs these."""
    minimal = find_commands(EXAMPLES / "minimal" / "README.md")
    assert minimal == find_commands(EXAMPLES.parent / "README.md")[: len(minimal)]


def test_each_command_of_churn_succeeds(tmp_path: Path) -> None:
    """On processes: the demo runs on Ray Serve."""
    readme = EXAMPLES / "churn" / "README.md"
    follow_readme(readme, tmp_path, FEWER_CUSTOMERS, HEADRACE_SERVING="processes")


def find_commands(readme: Path) -> list[str]:
    """The commands, without comments, and with ID for an id."""
    blocks = find_blocks(ID.sub("ID", readme.read_text()), "console")
    return [re.sub(r" +#.*", "", command) for block in blocks for command, _ in split_commands(block)]
