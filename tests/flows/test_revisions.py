"""Sources that read the data of a git tag, whether git or DVC tracks them."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from tests.flows.builds import call, commit, dvc_agrees, git, run_build
from tests.tiny import write

import headrace
from headrace import lake
from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError, ProjectError
from headrace.tables.revisions import revisions_in

TABLES = """
import polars as pl
from headrace import source, table

now = source("now", "data/prices.csv")
before = source("before", "data/prices.csv", revision="v1")

@table(reads=before)
def old(prices):
    return prices.select(pl.col("price").sum())

@table(reads=now)
def new(prices):
    return prices.select(pl.col("price").sum())
"""


def sums(settings: Settings, *tables: str) -> list[int]:
    opened = lake.open(settings)
    return [opened.table(name).scan().collect().item() for name in tables]


def dvc(settings: Settings, *arguments: str) -> str:
    out = call(settings, "dvc", *arguments)
    assert out.returncode == 0, out.stderr
    return out.stdout


@pytest.fixture(params=["git", "dvc", "folder"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A project whose data have two versions: prices 1 and 2 at the tag v1, 10 and 20 at v2."""
    root = write(tmp_path / "project", TABLES)
    settings = load_settings(root)
    git(settings, "init", "-q")
    file = root / "data" / "prices.csv"
    if request.param == "folder":
        tables = root / "tiny" / "tables.py"
        tables.write_text(tables.read_text().replace("data/prices.csv", "data"))
    dvc(settings, "init")
    for tag, text in (("v1", "price\n1\n2\n"), ("v2", "price\n10\n20\n")):
        file.write_text(text)
        if request.param != "git":
            dvc(settings, "add", "-q", "data" if request.param == "folder" else "data/prices.csv")
        commit(settings, tag)
    return settings


def test_each_table_reads_the_data_of_its_revision_and_dvc_agrees(project: Settings) -> None:
    assert run_build(project) == ["table-old", "table-new"]
    assert sums(project, "old", "new") == [3, 30]
    assert dvc_agrees(project)
    assert run_build(project) == []
    assert (project.root / "data" / "prices.csv").read_text() == "price\n10\n20\n"


def test_another_revision_is_built_by_dvc_repro_too(project: Settings) -> None:
    run_build(project)
    tables = project.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace('"v1"', '"v2"'))
    dvc(project, "repro")
    assert sums(project, "old", "new") == [30, 30]
    assert run_build(project) == []


def test_a_tag_that_moves_makes_its_tables_stale(project: Settings) -> None:
    run_build(project)
    git(project, "tag", "-f", "v1", "v2")
    assert run_build(project) == ["table-old"]
    assert sums(project, "old", "new") == [30, 30]
    assert run_build(project) == []
    assert dvc_agrees(project)


def test_a_missing_tag_stops_only_its_readers_and_lists_the_tags(project: Settings) -> None:
    tables = project.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace('"v1"', '"v9"'))
    out = call(project, "build")
    assert out.returncode != 0
    assert "the git repository has no revision 'v9'" in out.stderr
    assert "The tags are v" in out.stderr
    assert "tiny/tables.py:6: source('before', 'data" in out.stderr
    assert sums(project, "new") == [30]
    assert not lake.open(project).table_exists("old")


def test_a_path_that_the_revision_lacks_is_named(project: Settings) -> None:
    tables = project.root / "tiny" / "tables.py"
    text = tables.read_text().replace('source("before", "data', 'source("before", "data/elsewhere')
    tables.write_text(text)
    out = call(project, "build")
    assert out.returncode != 0
    assert "at revision v1 does not exist" in out.stderr
    assert "tiny/tables.py:6: source('before', 'data/elsewhere" in out.stderr
    assert "tiny/tables.py:6: " in call(project, "run-stage", "table-old").stderr
    assert sums(project, "new") == [30]


def test_a_project_without_git_is_told_to_use_it(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "project", TABLES))
    out = call(settings, "build")
    assert "is not in a git repository" in out.stderr
    assert sums(settings, "new") == [3]


@pytest.mark.parametrize("name", ["data", "data/a: b.csv", "data/${x}.csv", "data/#1 é.csv"])
def test_a_source_may_have_any_path(tmp_path: Path, name: str) -> None:
    root = write(tmp_path / "project", TABLES.replace(', revision="v1"', "").replace("data/prices.csv", name))
    if name != "data":
        (root / "data" / "prices.csv").rename(root / name)
    settings = load_settings(root)
    run_build(settings)
    assert sums(settings, "old", "new") == [3, 3]
    assert dvc_agrees(settings)


@pytest.mark.parametrize("value", ['"--output=x"', '""', '"a b"', "1"])
def test_a_text_that_git_could_take_for_an_option_is_refused(tmp_path: Path, value: str) -> None:
    settings = load_settings(write(tmp_path / "project", TABLES.replace('"v1"', value)))
    assert "is not a valid git revision" in call(settings, "build").stderr


def test_python_reads_a_source_at_any_revision(project: Settings) -> None:
    opened = headrace.project(project.root)
    prices = {
        revision: opened.source("now", revision=revision).collect()["price"].to_list()
        for revision in ("v1", "v2", None)
    }
    assert prices == {"v1": [1, 2], "v2": [10, 20], None: [10, 20]}
    assert opened.source("before").collect()["price"].to_list() == [1, 2]
    with pytest.raises(ProjectError, match="no revision 'v9'") as refused:
        opened.source("now", revision="v9")
    assert "v2" in str(refused.value.remedy)
    assert "test_revisions.py" in str(refused.value.where)
    with pytest.raises(CallError, match="source 'prices' does not exist"):
        opened.source("prices")


def test_data_of_a_revision_that_nothing_has_read_for_a_week_are_removed(project: Settings) -> None:
    run_build(project)
    opened = headrace.project(project.root)
    opened.source("now", revision="v2")
    folder = project.place("revisions")
    (folder / ".killed").mkdir()
    commits = {tag: git(project, "rev-parse", tag).strip() for tag in ("v1", "v2")}

    def kept() -> set[str]:
        return {tag for tag, commit in commits.items() for path in folder.iterdir() if commit in path.name}

    assert kept() == {"v1", "v2"}
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    tables = project.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace("sum()", "max()"))
    run_build(project)
    assert kept() == {"v1"}  # which a table reads
    assert len(list(folder.iterdir())) == 1
    assert sums(project, "old") == [2]
    assert opened.source("now", revision="v2").collect()["price"].to_list() == [10, 20]


def test_a_table_records_the_revision_that_it_and_its_inputs_were_made_from(project: Settings) -> None:
    tables = project.root / "tiny" / "tables.py"
    tables.write_text(f"{tables.read_text()}\n@table(reads=old)\ndef older(rows):\n    return rows\n")
    run_build(project)
    first, second = (git(project, "rev-parse", tag).strip() for tag in ("v1", "v2"))
    opened = lake.open(project)

    def revisions(table: str) -> dict[str, str]:
        snapshot = opened.table(table).current_snapshot()
        assert snapshot is not None
        return revisions_in(snapshot.summary)

    assert (revisions("old"), revisions("older"), revisions("new")) == (
        {"before": f"v1@{first}"},
        {"before": f"v1@{first}"},
        {},
    )
    tables.write_text(tables.read_text().replace('"v1"', '"v2"'))
    run_build(project)
    assert revisions("older") == {"before": f"v2@{second}"}


def test_a_warning_names_the_file_as_git_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(write(tmp_path / "project", TABLES))
    git(settings, "init", "-q")
    dvc(settings, "init")
    (settings.root / "data" / "prices.csv").write_text("price\n1\nn/a\n2\n")
    commit(settings, "v1")
    headrace.project(settings.root).source("before")
    (warning,) = caplog.messages
    assert warning.startswith("v1:data/prices.csv, row 3: column 'price' is text because of 'n/a'")


@pytest.mark.parametrize("end", [".csv", ".parquet", ".ndjson", ".json"])
def test_files_of_every_format_are_read_at_a_revision(tmp_path: Path, end: str) -> None:
    root = write(
        tmp_path / "project", f"from headrace import source\nrows = source('rows', 'data/rows{end}')\n"
    )
    settings = load_settings(root)
    git(settings, "init", "-q")
    dvc(settings, "init")
    for tag, value in (("v1", 1), ("v2", 2)):
        frame = pl.DataFrame({"price": [value]})
        writers = {
            ".csv": frame.write_csv, ".parquet": frame.write_parquet,
            ".ndjson": frame.write_ndjson, ".json": frame.write_json,
        }  # fmt: skip
        writers[end](root / "data" / f"rows{end}")
        commit(settings, tag)
    opened = headrace.project(root)
    for revision, value in (("v1", 1), ("v2", 2), (None, 2)):
        assert opened.source("rows", revision=revision).collect().rows() == [(value,)]
