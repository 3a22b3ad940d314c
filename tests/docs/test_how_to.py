"""The how-to pages, followed one after the other in the tutorial's project; the others say what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.docs.blocks import BLOCK, Reader, find_blocks, parse
from tests.e2e.minimal import build_minimal

import headrace
from headrace.cli.main import cli
from headrace.config.settings import load_settings

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


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_names_only_commands_and_settings_that_exist(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    (tmp_path / "models.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for block in find_blocks(text, "sh"):  # those of `console` are run
        for line in block.splitlines():
            words = shlex.split(line, comments=True) if line.startswith("headrace ") else []
            if words:
                parse(cli, words[1:])
    for language, title, block in BLOCK.findall(text):
        if language == "yaml":
            assert yaml.safe_load(block)
        elif language == "python":
            compile(block, str(page), "exec")
        elif language == "toml" and title == "headrace.toml":
            (tmp_path / title).write_text(block)
            for profile in re.findall(r"^\[profile\.(\w+)\]", block, re.MULTILINE):
                assert load_settings(tmp_path, profile).profile_name == profile


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "index.md").read_text()
    pages = {page.name for page in FOLDER.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\((\w+\.md)\)", index)) == pages
