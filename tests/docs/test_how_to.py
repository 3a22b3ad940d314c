"""The how-to pages, followed one after the other in the tutorial's project."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
from tests.docs.blocks import Reader
from tests.e2e.minimal import build_minimal

import headrace

FOLDER = Path(__file__).parents[2] / "docs" / "how-to"
FOLLOWED = ["add_a_feature", "roll_back", "change_a_contract", "backfill", "debug_a_stale_build"]


def test_the_pages_work_as_they_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "payments"
    build_minimal(folder)
    reader = Reader(folder)
    for page in FOLLOWED:
        reader.follow(FOLDER / f"{page}.md")
    before = headrace.project(folder, profile="local")
    reader.follow(FOLDER / "back_up_and_restore.md")
    assert reader.folder != folder
    after = headrace.project(reader.folder, profile="local")
    assert list(after.tables) == list(before.tables)
    for name in before.tables:
        old, new = before.table(name), after.table(name)
        assert (new.snapshot, new.to_polars().equals(old.to_polars())) == (old.snapshot, True), name
    frame = pl.DataFrame({"card": range(400), "amount": [20.0] * 400})
    moments = frame.with_columns(event_timestamp=before.table("payments").to_polars()["paid_at"].max())
    assert after.score("refusal", moments).equals(before.score("refusal", moments))


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "index.md").read_text()
    pages = {page.name for page in FOLDER.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\((\w+\.md)\)", index)) == pages
