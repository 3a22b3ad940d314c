"""What is the embedded log's alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from headrace.kernel.errors import Unavailable
from headrace.log import sqlite
from headrace.log.sqlite import SqliteLog


def test_a_file_locked_by_another_process_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    log = SqliteLog(str(tmp_path))
    log.create("events")
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked") as raised:
            log.append("events", [b"a"])
        assert raised.value.remedy
        other.execute("ROLLBACK")
    assert log.append("events", [b"a"]) == [(0, 0)]
    log.close()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_damaged_file_is_unavailable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.db").write_bytes(content)
    with pytest.raises(Unavailable, match="damaged") as raised:
        SqliteLog(str(tmp_path)).identity("events")
    assert str(tmp_path / "events.db") in str(raised.value)


def test_a_damaged_record_is_unavailable(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    log.append("events", [b"a"])
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("UPDATE chunk SET body = x'ffff'")
        other.commit()
    with pytest.raises(Unavailable, match="damaged"):
        log.read("events", {0: 0}, 1)
    log.close()


def test_large_records_are_kept_in_chunks_of_their_own(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    values = [b"x" * 700_000, b"y" * 700_000, b"z", b"w" * 3_000_000]
    log.append("events", values)
    assert log.read("events", {0: 0}, 10).values == values
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        assert other.execute("SELECT count(*) FROM chunk").fetchone()[0] == 3
    log.close()


def test_topics_are_private_to_their_owner(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path / "log"))
    log.create("events")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "log" / "events.db").stat().st_mode & 0o777 == 0o600
    log.close()
