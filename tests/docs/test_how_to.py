"""The how-to pages that no project of the tutorial follows (tests/docs/test_tutorial.py), and their index."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "how-to"


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "index.md").read_text()
    pages = {page.name for page in FOLDER.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\((\w+\.md)\)", index)) == pages
