import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from headrace.kernel.sqlite import is_locked, open_shared


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
