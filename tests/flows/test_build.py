"""Builds of a small project whose files are edited and whose builds are killed, checked with plain DVC."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
from datetime import timedelta

import polars as pl
import pytest
from tests.flows.builds import call, commit, dvc_agrees, git, run_build

from headrace import lake
from headrace.config.settings import Settings
from headrace.flows.build import build
from headrace.kernel.errors import CallError, ProjectError, Unavailable
from headrace.workspace import Workspace


def edit(settings: Settings, old: str, new: str) -> None:
    file = settings.root / "tiny" / "tables.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def total(settings: Settings) -> int:
    return int(lake.open(settings).table("total").scan().collect().item())


def test_two_tables_of_one_name_in_a_module_are_refused(tiny: Settings) -> None:
    file = tiny.root / "tiny" / "tables.py"
    file.write_text(file.read_text() + "\n@table(reads=prices)\ndef total(prices):\n    return prices\n")
    with pytest.raises(ProjectError, match=r"'total' is declared twice in one module.* line 16") as refused:
        build(Workspace(tiny))
    assert refused.value.where == f"{file}:24"


def test_a_build_runs_the_stale_stages_and_dvc_agrees(tiny: Settings) -> None:
    assert run_build(tiny) == ["table-doubled", "table-total", "table-count"]
    assert total(tiny) == 6
    assert dvc_agrees(tiny)
    assert run_build(tiny) == []

    edit(tiny, "# how much", "# by how much")
    edit(tiny, "def scaled(frame):", 'def scaled(frame):\n    """Scaled."""')
    assert run_build(tiny) == []
    assert dvc_agrees(tiny)

    edit(tiny, "FACTOR = 2", "FACTOR = 3")
    dry = call(tiny, "build", "--dry-run").stdout
    assert "tiny.tables.FACTOR" in dry
    assert "table-count" not in dry
    assert run_build(tiny) == ["table-doubled", "table-total"]
    assert total(tiny) == 9
    assert dvc_agrees(tiny)

    edit(tiny, "rows=pl.len()", "n=pl.len()")
    assert run_build(tiny) == ["table-count"]

    (tiny.root / "data" / "prices.csv").write_text("price\n1\n2\n3\n")
    assert "prices changed" in call(tiny, "build", "--dry-run").stdout
    assert run_build(tiny) == ["table-doubled", "table-total", "table-count"]
    assert total(tiny) == 18
    assert dvc_agrees(tiny)


def test_an_edited_source_declaration_makes_its_readers_stale(tiny: Settings) -> None:
    run_build(tiny)
    old = 'source("prices", "data/prices.csv")'
    edit(tiny, old, old.replace(")", ', schema={"price": float})'))
    assert "source(prices)" in call(tiny, "build", "--dry-run").stdout
    assert "table-doubled" in run_build(tiny)
    assert lake.open(tiny).table("doubled").scan().collect_schema()["price"] == pl.Float64
    edit(tiny, "float})", 'float}, encoding="latin-1")')
    assert "table-doubled" in run_build(tiny)
    edit(tiny, 'encoding="latin-1")', 'null_values=["NA"])')
    assert "table-doubled" in run_build(tiny)
    assert run_build(tiny) == []


def test_a_missing_source_stops_only_the_stages_that_need_it(tiny: Settings) -> None:
    edit(
        tiny,
        "@table(reads=prices)\ndef count(prices)",
        """shops = source("shops", "data/shops.csv")

@table(reads=shops)
def count(prices)""",
    )
    out = call(tiny, "build")
    assert out.returncode != 0
    assert "source 'shops' has no files" in out.stderr
    assert "data/shops.csv" in out.stderr
    assert total(tiny) == 6  # the other tables are built
    assert "source 'shops' has no files" in call(tiny, "build", "--dry-run").stderr
    assert run_build(tiny, "total") == []
    (tiny.root / "data" / "shops.csv").write_text("shop\n1\n")
    assert run_build(tiny) == ["table-count"]
    assert dvc_agrees(tiny)


def test_plain_dvc_repro_equals_a_build(tiny: Settings) -> None:
    run_build(tiny)
    edit(tiny, "FACTOR = 2", "FACTOR = 5")
    out = call(tiny, "dvc", "repro")
    assert out.returncode == 0, out.stdout + out.stderr
    assert total(tiny) == 15
    assert dvc_agrees(tiny)
    assert run_build(tiny) == []


def test_git_does_not_ignore_the_pointers(tiny: Settings) -> None:
    subprocess.run(["git", "init", "-q", str(tiny.root)], check=True, timeout=300)
    run_build(tiny)
    assert dvc_agrees(tiny)
    ignored = subprocess.run(
        ["git", "check-ignore", "pointers/tables/total.json"], cwd=tiny.root, capture_output=True, timeout=300
    )
    assert ignored.returncode == 1


def test_a_target_is_built_with_what_it_needs(tiny: Settings) -> None:
    assert run_build(tiny, "total") == ["table-doubled", "table-total"]
    assert run_build(tiny) == ["table-count"]
    with pytest.raises(CallError, match="'lost' is not a table, model or stage"):
        build(Workspace(tiny), ["lost"])


def test_dry_run_writes_nothing(tiny: Settings) -> None:
    report = build(Workspace(tiny), dry_run=True)
    assert [stage.stage for stage in report.stages] == ["table-doubled", "table-total", "table-count"]
    assert not (tiny.root / "pointers").exists()
    assert not (tiny.root / "dvc.yaml").exists()


def test_a_build_without_the_state_folder_rebuilds_everything(tiny: Settings) -> None:
    run_build(tiny)
    shutil.rmtree(tiny.state)  # as in a clone on another machine, which has only the pointers
    assert run_build(tiny) == ["table-doubled", "table-total", "table-count"]
    assert total(tiny) == 6


@pytest.mark.parametrize(
    "content",
    [b"", b'{"write": {"/a', b"[]", b'{"read": {"a": [{"pid": 1}]}}', b"\xff\xfe{"],
)
def test_a_torn_list_of_files_in_use_stops_no_build(tiny: Settings, content: bytes) -> None:
    run_build(tiny)
    file = tiny.root / ".dvc" / "tmp" / "rwlock"
    assert file.is_file()
    file.write_bytes(content)
    edit(tiny, "FACTOR = 2", "FACTOR = 3")
    built = call(tiny, "build")
    assert built.returncode == 0, built.stderr
    assert "rwlock, which a killed command or a full disk had left incomplete" in built.stderr
    assert "incomplete" not in call(tiny, "build").stderr


@pytest.mark.parametrize("point", ["build.before_record", "build.after_record"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_the_next_build_continues_one_killed_at_any_stage(tiny: Settings, point: str, nth: int) -> None:
    killed = call(tiny, "build", fault=f"{point}:{nth}")
    assert killed.returncode == -signal.SIGKILL
    run_build(tiny)
    assert total(tiny) == 6
    snapshots = {name: len(lake.open(tiny).table(name).snapshots()) for name in ("doubled", "total", "count")}
    assert snapshots == {"doubled": 1, "total": 1, "count": 1}  # each table was written once
    assert dvc_agrees(tiny)
    assert run_build(tiny) == []


@pytest.mark.parametrize(
    "point", ["lake.before_data_file", "lake.after_data_file", "lake.before_commit", "lake.after_commit"]
)
def test_a_build_killed_amid_a_commit_writes_nothing_twice(tiny: Settings, point: str) -> None:
    killed = call(tiny, "build", fault=f"{point}:2")
    assert killed.returncode == -signal.SIGKILL
    run_build(tiny)
    assert total(tiny) == 6
    snapshots = {name: len(lake.open(tiny).table(name).snapshots()) for name in ("doubled", "total", "count")}
    assert snapshots == {"doubled": 1, "total": 1, "count": 1}
    assert dvc_agrees(tiny)


def test_a_second_build_names_the_process_of_the_first(tiny: Settings) -> None:
    with (tiny.make_state() / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        with pytest.raises(Unavailable, match="process 4711"):
            build(Workspace(tiny))
    assert run_build(tiny)


def test_a_function_that_fails_leaves_its_table_unchanged(tiny: Settings) -> None:
    run_build(tiny)
    wrong = 'pl.col("postgresql://joe:s3cr3t@db/cost")'
    edit(tiny, 'doubled.select(pl.col("price").sum())', f"doubled.select({wrong}.sum())")
    out = call(tiny, "build")
    assert out.returncode == 2
    assert "postgresql://joe:***@db/cost" in out.stdout
    assert "postgresql://joe:***@db/cost" in out.stderr
    assert "s3cr3t" not in out.stdout + out.stderr
    assert "tables.py" in out.stderr
    assert total(tiny) == 6
    edit(tiny, wrong, 'pl.col("price")')
    assert run_build(tiny) == []


def commit_two_versions(settings: Settings) -> None:
    """Commits v1, whose total is 6, and v2, with other rows and a renamed column."""
    git(settings, "init", "-q")
    (settings.root / ".gitignore").write_text(".headrace/\n__pycache__/\n")
    run_build(settings)
    commit(settings, "v1")
    edit(settings, "FACTOR = 2", "FACTOR = 5")
    edit(settings, "rows=pl.len()", "n=pl.len()")
    assert run_build(settings) == ["table-doubled", "table-total", "table-count"]
    commit(settings, "v2")


def test_a_build_after_a_checkout_restores_the_rows_of_that_commit(tiny: Settings) -> None:
    commit_two_versions(tiny)
    for tag, sum_of_prices, column in (("v1", 6, "rows"), ("v2", 15, "n"), ("v1", 6, "rows")):
        git(tiny, "checkout", "-q", tag)
        assert "total in the lake holds other rows" in call(tiny, "status").stdout
        assert call(tiny, "build", "--dry-run").stdout.count("in the lake holds other rows") == 3
        assert run_build(tiny) == ["table-doubled", "table-total", "table-count"]
        assert total(tiny) == sum_of_prices
        count = lake.open(tiny).table("count")
        assert count.scan().collect().to_dicts() == [{column: 2}]
        assert count.schema().names == [column]
        assert git(tiny, "status", "--short") == ""
        assert dvc_agrees(tiny)
        assert run_build(tiny) == []
    edit(tiny, "FACTOR = 2", "FACTOR = 7")  # later builds start from the restored rows
    assert run_build(tiny) == ["table-doubled", "table-total"]
    assert total(tiny) == 21


def test_expired_rows_of_an_older_commit_are_rebuilt(tiny: Settings) -> None:
    commit_two_versions(tiny)
    opened = lake.open(tiny)
    for name in opened.list_tables():
        table = opened.table(name)
        for pin in table.tags():
            table.remove_tag(pin)
        lake.maintain(table, older_than=timedelta(microseconds=-1))
        assert len(table.snapshots()) == 1
    git(tiny, "checkout", "-q", "v1")
    assert run_build(tiny) == ["table-doubled", "table-total", "table-count"]
    assert total(tiny) == 6
    assert run_build(tiny) == []


def test_a_table_built_from_other_code_is_found_after_its_pointers_are_restored(tiny: Settings) -> None:
    run_build(tiny)
    edit(tiny, "FACTOR = 2", "FACTOR = 5")
    before = {path: path.read_bytes() for path in (tiny.root / "pointers").rglob("*.json")}
    before[tiny.root / "dvc.lock"] = (tiny.root / "dvc.lock").read_bytes()
    assert run_build(tiny, "doubled") == ["table-doubled", "visible"]
    edit(tiny, "FACTOR = 5", "FACTOR = 2")
    for path, content in before.items():
        path.write_bytes(content)
    assert run_build(tiny) == ["table-doubled"]
    assert sorted(lake.open(tiny).table("doubled").scan().collect()["price"]) == [2, 4]


def test_a_pointer_with_a_merge_conflict_is_named(tiny: Settings) -> None:
    run_build(tiny)
    (tiny.root / "pointers" / "code.json").write_text("<<<<<<< HEAD\n")
    with pytest.raises(ProjectError, match="not JSON"):
        build(Workspace(tiny))


def test_git_init_after_a_build_adds_only_files_to_be_committed(tiny: Settings) -> None:
    run_build(tiny)
    git(tiny, "init", "-q")
    git(tiny, "add", "-A")
    added = git(tiny, "ls-files").splitlines()
    private = (".dvc/cache", ".dvc/tmp", ".dvc/config.local", ".headrace")
    assert [path for path in added if path.startswith(private)] == []
    assert "no_scm" not in git(tiny, "show", ":.dvc/config")
    commit(tiny, "before")
    assert run_build(tiny) == []
    out = call(tiny, "dvc", "params", "diff")  # this command needs git
    assert out.returncode == 0, out.stderr
    edit(tiny, "FACTOR = 2", "FACTOR = 3")
    run_build(tiny)
    changed = [path for path in git(tiny, "diff", "--name-only").splitlines() if path.startswith(".dvc")]
    assert changed == []
    assert dvc_agrees(tiny)
