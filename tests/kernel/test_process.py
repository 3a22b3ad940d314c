"""The end of a session: which processes it may kill, and how long it may take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from headrace.kernel.process import end_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")


@pytest.fixture
def orphan() -> Iterator[tuple[int, int]]:
    """The id of a leader that has ended, and a process that it started."""
    started = "sleep 600 >/dev/null & echo $!"
    with subprocess.Popen(["sh", "-c", started], stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout is not None
        pid = int(leader.stdout.readline())
    yield leader.pid, pid
    if _runs(pid):
        os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_a_leader_left_is_killed_after_the_deadline(orphan: tuple[int, int]) -> None:
    leader, pid = orphan
    assert _runs(pid)
    assert end_session(leader, time.monotonic()) == []
    assert not _runs(pid)


def test_a_process_that_got_the_leaders_id_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        try:
            assert end_session(other.pid, time.monotonic()) == []
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_that_cannot_be_killed_is_given_up(
    orphan: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.kernel.process._LONGEST_KILL", 0.1)
    leader, pid = orphan
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(65534)
            code = 0 if end_session(leader, time.monotonic()) == [pid] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _runs(pid)


def test_a_process_in_the_session_of_another_kills_none_of_it() -> None:
    program = "from headrace.kernel.process import kill_started; kill_started()"
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            subprocess.run([sys.executable, "-c", program], check=True)
            assert other.poll() is None
        finally:
            other.kill()
