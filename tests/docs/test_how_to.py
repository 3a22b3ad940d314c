"""The how-to pages on moving from DVC and from Feast, followed in repositories of theirs; the index of all.

The other pages are followed in the tutorial's project (tests/docs/test_tutorial.py).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import polars as pl
from tests.docs.blocks import Reader
from tests.e2e.demos import AUTHOR

import headrace

FOLDER = Path(__file__).parents[2] / "docs" / "how-to"
MAKE_REPOSITORY = """\
git init --quiet
dvc init --quiet
mkdir data
printf 'product,price\\na,5\\nb,20\\nc,7.5\\n' > data/prices.csv
dvc add --quiet data/prices.csv
dvc stage add --quiet --name count --deps data/prices.csv --outs lines.txt 'wc -l data/prices.csv > lines.txt'
dvc repro --quiet
git add --all
git commit --quiet --message 'A repository of DVC'
"""


def test_a_repository_of_dvc_becomes_a_project(tmp_path: Path) -> None:
    reader = Reader(tmp_path, DVC_NO_ANALYTICS="1", **AUTHOR)
    reader.run(f"set -e; {MAKE_REPOSITORY}", "", "repository")
    reader.follow(FOLDER / "move_from_dvc.md")
    assert subprocess.check_output(["git", "status", "--short"], cwd=tmp_path) == b""
    cheap = headrace.project(tmp_path).table("cheap_prices").to_polars()
    assert cheap.sort("product").rows() == [("a", 5.0), ("c", 7.5)]


def test_a_view_of_feast_becomes_one_of_a_project(tmp_path: Path) -> None:
    hours = pl.datetime_range(pl.datetime(2026, 3, 1), pl.datetime(2026, 3, 2, 23), "1h", time_zone="UTC")
    rows = pl.select(event_timestamp=hours).with_columns(
        driver_id=pl.lit(1001),
        created="event_timestamp",
        conv_rate=pl.lit(0.5, pl.Float32),
        acc_rate=pl.lit(0.25, pl.Float32),
        avg_daily_trips=pl.int_range(pl.len()),
        driver_config=pl.lit("{}"),
    )
    file = tmp_path / "feature_repo" / "data" / "driver_stats.parquet"
    file.parent.mkdir(parents=True)
    rows.write_parquet(file)
    reader = Reader(tmp_path)
    reader.follow(FOLDER / "move_from_feast.md")
    project = headrace.project(reader.folder)
    assert project.table("driver_stats").to_polars().height == 48
    assert list(project.feature_services) == ["driver_activity"]


def test_the_index_lists_every_page() -> None:
    index = (FOLDER / "index.md").read_text()
    pages = {page.name for page in FOLDER.glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\((\w+\.md)\)", index)) == pages
