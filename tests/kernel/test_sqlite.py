import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from headrace.kernel.errors import Unavailable
from headrace.kernel.sqlite import connect, is_locked, name_errors, open_shared, transaction


def test_several_that_open_a_new_file_at_once_all_have_it_in_wal_mode(tmp_path: Path) -> None:
    def use(path: Path) -> str:
        with closing(open_shared(path, timeout=20)) as db:
            return str(db.execute("PRAGMA journal_mode").fetchone()[0])

    with ThreadPoolExecutor(8) as threads:
        for number in range(50):
            modes = list(threads.map(use, [tmp_path / f"{number}.db"] * 8))
            assert modes == ["wal"] * 8


def test_a_file_that_another_keeps_locked_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as refused:
            open_shared(path, timeout=0.1)
        assert is_locked(refused.value)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(open_shared, path, timeout=20)
            other.execute("COMMIT")
            waiting.result().close()


def test_what_is_no_database_is_refused_as_that(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_text("no database, " * 100)
    with pytest.raises(sqlite3.DatabaseError) as refused:
        open_shared(path, timeout=20)
    assert not is_locked(refused.value)


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    with closing(open_shared(tmp_path / "a.db", timeout=20)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("CREATE TABLE a (id PRIMARY KEY, other REFERENCES a (id) DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(sqlite3.IntegrityError), transaction(db):
            db.execute("INSERT INTO a VALUES (1, 2)")
        with transaction(db):
            db.execute("INSERT INTO a VALUES (1, 1)")
        assert db.execute("SELECT count(*) FROM a").fetchone() == (1,)


def test_a_full_disk_is_named_with_the_place_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(open_shared(path, timeout=20)) as db:
        db.execute("CREATE TABLE a (b)")
        db.execute("PRAGMA max_page_count = 2")
        with pytest.raises(Unavailable) as failure, name_errors("the file", path), transaction(db):
            db.execute("INSERT INTO a VALUES (zeroblob(100000))")
        with transaction(db):
            db.execute("INSERT INTO a VALUES (1)")
    assert failure.value.what == "the file cannot be read or written: database or disk is full"
    assert failure.value.where == str(path)
    assert failure.value.remedy == "Check that the disk has room, and that this user may write there."


def test_an_error_of_our_own_is_not_taken_for_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(open_shared(path, timeout=20)) as db:
        db.execute("CREATE TABLE a (b UNIQUE)")
        with pytest.raises(sqlite3.IntegrityError), name_errors("the file", path):
            db.execute("INSERT INTO a VALUES (1), (1)")


def test_each_outage_is_named_with_its_own_remedy(tmp_path: Path) -> None:
    damaged, locked = tmp_path / "damaged.db", tmp_path / "locked.db"
    damaged.write_text("no database, " * 100)
    with (
        pytest.raises(Unavailable, match="the file is damaged: file is not a database") as failure,
        name_errors("the file", damaged, restore="Copy it back."),
    ):
        open_shared(damaged, timeout=20)
    assert failure.value.remedy == "Copy it back."
    with closing(sqlite3.connect(locked, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(Unavailable, match="the file is locked by another process") as failure,
            name_errors("the file", locked),
        ):
            open_shared(locked, timeout=0.1)
    assert "End the process that has it open" in str(failure.value.remedy)


def test_a_file_in_a_folder_that_may_not_be_written_is_read_unless_somebody_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    with closing(open_shared(path, timeout=20)) as writer:
        writer.execute("CREATE TABLE a (b)")
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    reader = connect(path, timeout=20)
    assert reader.execute("SELECT count(*) FROM a").fetchone() == (0,)
    with pytest.raises(Unavailable, match="cannot be written") as refused, name_errors("the file", path):
        reader.execute("INSERT INTO a VALUES (1)")
    assert "permission" in str(refused.value)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("INSERT INTO a VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="another process writes it"):
            reader.execute("SELECT count(*) FROM a")
        with closing(connect(path, timeout=20)) as beside:
            assert beside.execute("SELECT count(*) FROM a").fetchone() == (1,)
    with pytest.raises(sqlite3.OperationalError, match="another process writes it"):
        reader.close()
