"""What the README of the sales shows for each bad input is what a build prints, and no table is made of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from tests.e2e.demos import HEADRACE
from tests.examples.example import EXAMPLES, load_script

import headrace

README = EXAMPLES / "sales" / "README.md"


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """An edit of a file that replaces a text, everywhere."""

    def edit(data: Path) -> None:
        text = (data / name).read_text()
        assert old in text
        (data / name).write_text(text.replace(old, new))

    return edit


def drop_cpi(data: Path) -> None:
    pl.read_csv(data / "features.csv").drop("CPI").write_csv(data / "features.csv")


def write_other_null(data: Path) -> None:
    lines = (data / "features.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",NA,", ",n.a.,", 1)
    (data / "features.csv").write_text("\n".join([*lines, ""]))


def remove_stores(data: Path) -> None:
    (data / "stores.csv").unlink()


CASES = {
    "A column has another name": ("weekly_sales", replace("train.csv", "Weekly_Sales", "WeeklySales")),
    "A column is missing": ("store_weeks", drop_cpi),
    '"No value" is spelt': ("store_weeks", write_other_null),
    "A week does not end on a Friday": ("weekly_sales", replace("train.csv", "2026-11-20", "2026-11-21")),
    "A file is missing": ("stores", remove_stores),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad") / "sales"
    subprocess.run([HEADRACE, "init", folder, "--example", "sales"], check=True, capture_output=True)
    generator = load_script("sales", "generate")
    generator.write(generator.generate(1, 7, date(2026, 11, 25)), folder / "data")
    shutil.copytree(folder / "data", folder.parent / "good")
    return folder


@pytest.fixture
def data(project: Path) -> Path:
    """The project's files, as they were generated."""
    shutil.rmtree(project / "data")
    shutil.copytree(project.parent / "good", project / "data")
    return project / "data"


def shown_in_readme(case: str) -> list[str]:
    """The lines that the README shows for a case."""
    _, _, rest = README.read_text().partition(f"**{case}")
    return rest.split("```\n")[1].splitlines()


def build(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [HEADRACE, "build", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment, check=False)


def without_folder(text: str, folder: Path) -> list[str]:
    """The lines, with paths from the project's folder; line numbers of its code may differ."""
    relative = text.replace(f"{folder}/", "")
    return [re.sub(r"\.py:\d+", ".py:N", line) for line in relative.splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_refused_as_the_readme_shows(project: Path, data: Path, case: str) -> None:
    table, edit = CASES[case]
    edit(data)
    process = build(project, table)
    assert process.returncode != 0
    shown = without_folder("\n".join(shown_in_readme(case)), project)
    assert without_folder(process.stderr, project)[: len(shown)] == shown


def test_a_bad_file_leaves_the_table_as_it_was(project: Path, data: Path) -> None:
    assert build(project, "weekly_sales").returncode == 0
    before = headrace.project(project).table("weekly_sales")
    replace("train.csv", "2026-11-20", "2026-11-21")(data)
    assert build(project, "weekly_sales").returncode != 0
    after = headrace.project(project).table("weekly_sales")
    assert after.snapshot == before.snapshot
    assert after.to_polars().height == 81 * 143


def test_a_postgres_that_is_away_is_named(project: Path, data: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    address = "postgresql://127.0.0.1:9/features"  # the discard port: nothing listens there
    process = build(
        project, "--profile", "postgres", HEADRACE_ONLINE=address, HEADRACE_FEAST_REGISTRY=address, PGUSER="u"
    )
    assert process.returncode != 0
    assert process.stderr.splitlines() == shown_in_readme("The PostgreSQL server is away")


def test_a_folder_without_the_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Store\n")
    command = [HEADRACE, "demo", "sales", "--data", tmp_path, "--folder", tmp_path / "project"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert "there is no features.csv and no stores.csv" in process.stderr
