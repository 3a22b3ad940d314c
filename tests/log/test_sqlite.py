"""The embedded log: its files, their locks and damage, retention."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.wal_locks import hold_wal_locks

from headrace.kernel import faults
from headrace.kernel.errors import NotAppended, Unavailable
from headrace.log.sqlite import connection, writer
from headrace.log.sqlite.log import SqliteLog

CREATOR = """
import sys
from headrace.log.sqlite.log import SqliteLog
SqliteLog(sys.argv[1]).create("events")
"""


def start_creator(folder: Path, fault: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CREATOR, str(folder)], env={**os.environ, faults.VARIABLE: fault}
    )


def test_a_draft_of_a_killed_process_is_removed_at_the_next_start(tmp_path: Path) -> None:
    assert start_creator(tmp_path, "log.before_topic").wait(180) == -signal.SIGKILL
    (draft,) = tmp_path.iterdir()
    draft.with_name(draft.name + "-journal").touch()  # of a kill in the midst of it
    log = SqliteLog(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    log.create("events")
    assert [path.name for path in tmp_path.iterdir()] == ["events.db"]
    log.close()


def test_a_draft_that_a_process_writes_is_not_removed(tmp_path: Path) -> None:
    creator = start_creator(tmp_path, "log.before_topic:1:STOP")
    try:
        assert os.WIFSTOPPED(os.waitpid(creator.pid, os.WUNTRACED)[1])
        drafts = list(tmp_path.iterdir())
        SqliteLog(str(tmp_path)).close()
        assert (len(drafts), list(tmp_path.iterdir())) == (1, drafts)
        creator.send_signal(signal.SIGCONT)
        assert creator.wait(180) == 0
    finally:
        creator.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["events.db"]


def test_file_locked_by_another_process_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0)
    log = SqliteLog(str(tmp_path))
    log.create("events")
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotAppended, match="locked") as raised:
            log.append("events", [b"a"])
        assert raised.value.remedy
        other.execute("ROLLBACK")
    assert log.append("events", [b"a"]) == [(0, 0)]
    log.close()


def test_whether_an_append_is_on_the_log_is_not_known_if_the_commit_fails(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    log.append("events", [b"a"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # no page can be written, as on a full disk
    try:
        with pytest.raises(Unavailable) as raised:
            log.append("events", [b"b"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(raised.value, NotAppended)
    log.close()


def test_file_that_a_stopped_process_holds_is_unavailable(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    assert log.append("events", [b"a"]) == [(0, 0)]
    with hold_wal_locks(tmp_path / "events.db"), pytest.raises(Unavailable, match="locked"):
        SqliteLog(str(tmp_path)).end("events")
    assert log.append("events", [b"a"]) == [(0, 1)]
    log.close()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_damaged_file_is_unavailable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.db").write_bytes(content)
    with pytest.raises(Unavailable, match="damaged") as raised:
        SqliteLog(str(tmp_path)).identity("events")
    assert str(tmp_path / "events.db") in str(raised.value)


def test_damaged_record_is_unavailable(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    log.append("events", [b"a"])
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("UPDATE chunk SET body = x'ffff'")
        other.commit()
    with pytest.raises(Unavailable, match="damaged"):
        log.read("events", {0: 0}, 1)
    log.close()


def test_large_record_has_its_own_chunk(tmp_path: Path) -> None:
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


def test_appends_delete_chunks_past_the_retention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETENTION_SECONDS", 0.0)
    now = 1_800_000_000_000_000
    monkeypatch.setattr(writer, "now_micros", lambda: now)
    monkeypatch.setattr(writer, "uptime_micros", lambda: now)
    log = SqliteLog(str(tmp_path))
    log.create("events", 2, timedelta(hours=1))
    log.append("events", [b"a", b"b"], [b"0", b"1"])
    end = log.end("events")
    now += 30 * 60_000_000
    log.append("events", [b"c", b"d"], [b"0", b"1"])
    assert log.start("events") == {0: 0, 1: 0}
    now += 31 * 60_000_000  # the first are past the hour, the second are not
    log.append("events", [b"e"], [b"0"])
    assert log.start("events") == end
    assert sorted(log.read("events", {0: 0, 1: 0}, 10).values) == [b"c", b"d", b"e"]
    now += 1_000 * 60_000_000
    monkeypatch.setattr(writer, "RETENTION_SECONDS", 60.0)
    log.append("events", [b"f"], [b"0"])
    assert log.start("events") == log.end("events") | {0: log.end("events")[0] - 1}
    now += 1_000 * 60_000_000
    log.append("events", [b"g"], [b"0"])  # not every append deletes
    assert log.read("events", {0: 0}, 10).values == [b"f", b"g"]
    log.close()


def test_a_clock_that_is_ahead_for_a_while_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RETENTION_SECONDS", 0.0)
    minute = 60_000_000
    day = 1_440 * minute
    uptime, wrong = 0, 0
    monkeypatch.setattr(writer, "now_micros", lambda: 1_800_000_000_000_000 + uptime + wrong)
    monkeypatch.setattr(writer, "uptime_micros", lambda: uptime)

    def append(value: bytes) -> list[bytes]:
        log = SqliteLog(str(tmp_path))  # as a new process
        log.create("events", 1, timedelta(hours=1))
        log.append("events", [value])
        kept = log.read("events", {0: log.start("events")[0]}, 10).values
        log.close()
        return kept

    append(b"a")
    uptime, wrong = minute, 30 * day
    assert append(b"b") == [b"a", b"b"]
    uptime, wrong = 2 * minute, 0
    assert append(b"c") == [b"a", b"b", b"c"]
    uptime = 62 * minute
    assert append(b"d") == [b"b", b"c", b"d"]  # "b" came a month ahead, and "a" is an hour old


def test_topic_of_an_older_version_gets_a_retention(tmp_path: Path) -> None:
    log = SqliteLog(str(tmp_path))
    log.create("events")
    log.close()
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("ALTER TABLE topic DROP COLUMN retention")
    log = SqliteLog(str(tmp_path))
    assert log.append("events", [b"a"]) == [(0, 0)]
    assert log.retention("events") is None
    log.create("events", retention=timedelta(days=1))
    assert log.retention("events") == timedelta(days=1)
    log.close()
