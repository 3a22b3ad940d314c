"""The tutorial and then the how-to pages, followed as a reader would, in the project of the tutorial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from tests.cli.read_only import call_commands, forbid_writing
from tests.docs.blocks import PORT_VARIABLES, Reader

import headrace

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = ["index", "events", "tables", "features", "model", "predictions", "why"]
READ = [
    "status",
    "graph",
    "lineage",
    "lineage refusal",
    "why {id}",
    "why payments@0:5",
    "score refusal one.ndjson",
    "check parity",
    "check leakage refusal",
    "check tables",
    "check contracts",
    "quarantine list",
    "quarantine alerts",
    "backtest refusal@1",
    "table-versions payments",
    "try payment_labels",
    "build --dry-run",
    "export airflow",
]
WRITTEN = {
    "build": "build.lock",
    "build card_payments --full": "build.lock",
    "send payments one.ndjson": "payments.db",
    "ingest --until-end": "catalog.db",
    "up": "up.lock",
    "release refusal champion=1": "headrace.releases.db",
    "tag-table payments kept": "catalog.db",
    "drop-table payment_labels --yes": "build.lock",
    "test --record payment_labels": "tests",
    "score refusal one.ndjson --output scores.csv": "scores.csv",
    "graph --output graph.md": "graph.md",
    "export airflow --output dag.py": "dag.py",
    "backtest refusal@1 --output answers.parquet": "answers.parquet",
    "quarantine replay payments": "payments.db",
    "clean --yes": "up.lock",
    "init sub": "sub",
}
"""Command that writes → what an error names that it cannot write."""
HOW_TO = ["add_a_feature", "roll_back", "change_a_contract", "backfill", "debug_a_stale_build"]


@dataclass(frozen=True)
class Followed:
    """The tutorial, followed to its end.

    Attributes:
        reader: the reader, in the project's folder; nothing runs any more.
        files: the files that the reader wrote, at the end of the tutorial: path in the project → text.
    """

    reader: Reader
    files: dict[str, str]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    reader = Reader(tmp_path_factory.mktemp("tutorial"), **dict.fromkeys(PORT_VARIABLES, "0"))
    try:
        for page in TUTORIAL:
            reader.follow(DOCS / "tutorial" / f"{page}.md")
    finally:
        code = reader.stop()
    assert code == 0
    return Followed(reader, read_files(reader.folder))


def read_files(project: Path) -> dict[str, str]:
    """The Python and settings of a project: path → text."""
    files = [project / "headrace.toml", *project.glob("*.py"), *project.glob("payments/*.py")]
    return {str(file.relative_to(project)): file.read_text() for file in files}


def test_the_tutorial_works_as_it_is_written_and_ends_as_minimal(followed: Followed) -> None:
    assert followed.files == read_files(ROOT / "examples" / "minimal")


def test_the_how_to_pages_work_as_they_are_written(followed: Followed) -> None:
    reader = followed.reader
    for page in HOW_TO:
        reader.follow(DOCS / "how-to" / f"{page}.md")
    folder = reader.folder
    before = headrace.project(folder, profile="local")
    reader.follow(DOCS / "how-to" / "back_up_and_restore.md")
    assert reader.folder != folder
    after = headrace.project(reader.folder, profile="local")
    assert list(after.tables) == list(before.tables)
    for name in before.tables:
        old, new = before.table(name), after.table(name)
        assert (new.snapshot, new.to_polars().equals(old.to_polars())) == (old.snapshot, True), name
    frame = pl.DataFrame({"card": range(400), "amount": [20.0] * 400})
    moments = frame.with_columns(event_timestamp=before.table("payments").to_polars()["paid_at"].max())
    assert after.score("refusal", moments).equals(before.score("refusal", moments))


def test_a_folder_that_may_not_be_written_is_read_and_each_other_command_says_what_it_lacks(
    followed: Followed,
) -> None:
    folder = followed.reader.folder
    (folder / "one.ndjson").write_text('{"card": 17, "amount": 120}\n')
    predictions = headrace.project(folder, profile="local").table("headrace_predictions").to_polars()
    commands = [command.format(id=predictions.sort("at")["id"][-1]) for command in READ]
    with forbid_writing(folder):
        ended = call_commands(folder, [*commands, *WRITTEN])
    for end in ended:
        assert "Traceback" not in end.errors
        assert "This is a bug" not in end.errors, end
        if end.command in commands:
            assert end.code == 0, end
        else:
            assert end.code == 1, end
            _, where, remedy = end.errors[end.errors.index("error: ") :].splitlines()[:3]
            assert f"/{WRITTEN[end.command]}" in where, end
            assert "permission" in remedy, end


def test_the_pages_on_servers_work_in_this_project(
    followed: Followed, empty_database: str, empty_redis: str, tmp_path: Path
) -> None:
    """Feature values in PostgreSQL and Redis; traces in a collector."""
    folder = followed.reader.folder
    addresses = {
        "postgresql://headrace@db:5432/features": empty_database,
        "redis://redis:6379/0": empty_redis,
        "/tmp/spans": str(tmp_path / "spans"),
        "../payments": str(folder),
    }
    free_ports = dict.fromkeys(PORT_VARIABLES, "0")
    settings = folder / "headrace.toml"
    before = settings.read_text()
    try:
        Reader(folder, addresses=addresses, **free_ports).follow(DOCS / "guide" / "online.md", "stores")
    finally:
        settings.write_text(before)  # of the other tests, which run without these servers
    Reader(ROOT, addresses=addresses, **free_ports).follow(DOCS / "guide" / "serving.md", "traces")
