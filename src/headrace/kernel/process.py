"""Processes of this machine: whether one is still alive, how much memory it uses, and the end of a session."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from headrace.kernel.uptime import boot_id

__all__ = ["end_session", "is_alive", "kill_started", "mark_of", "memory_of"]

_CHECK_EVERY = 0.02  # seconds between two looks at a session that ends
_LONGEST_KILL = 5.0  # seconds that killed processes may take to end
_PROC = Path("/proc/self/stat")  # Linux has it


def mark_of(pid: int | None = None) -> str:
    """The mark `pid boot start` of a process (default: this process); `""` if it does not run.

    The start time distinguishes a process from a later one with the same id.
    """
    pid = os.getpid() if pid is None else pid
    start = _start(pid)
    return "" if start is None else f"{pid} {boot_id()} {start}"


def is_alive(mark: str) -> bool:
    """Whether the process with this mark still runs."""
    pid = mark.split(" ", 1)[0]
    return pid.isdecimal() and mark_of(int(pid)) == mark


def memory_of(pid: int) -> int | None:
    """The bytes of memory of a process, shared memory divided among those that share it (Linux: Pss; elsewhere
    the resident size); None if it does not run."""
    if not _PROC.exists():
        ps = subprocess.run(["ps", "-p", str(pid), "-o", "rss="], capture_output=True, text=True, check=False)
        return int(ps.stdout) * 1024 if ps.stdout.strip() else None
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def end_session(leader: int, deadline: float) -> list[int]:
    """Waits until no process of a session runs; after the deadline (as time.monotonic) kills those that do.

    A process belongs to the session of the process that started it, even after that one has ended.

    Args:
        leader: the process id with which the session began. That process has ended and was waited for.

    Returns:
        The ids of processes that still run 5 s after they were killed: they wait for a device, or belong to
        another user.
    """
    last = max(deadline, time.monotonic()) + _LONGEST_KILL
    while pids := _find_session(leader):
        if time.monotonic() >= last:
            return pids
        if time.monotonic() >= deadline:
            _kill(pids)
        time.sleep(_CHECK_EVERY)
    return []


def kill_started() -> None:
    """Kills every other process of this process's session, and waits up to 5 s until they have ended.

    Does nothing unless the session began with this process: only then are the others what it started.
    """
    leader, last = os.getpid(), time.monotonic() + _LONGEST_KILL
    if os.getsid(0) != leader:
        return
    while (pids := [pid for pid in _list_session(leader) if pid != leader]) and time.monotonic() < last:
        _kill(pids)
        time.sleep(_CHECK_EVERY)


def _find_session(leader: int) -> list[int]:
    """The ids of the processes of a session whose leader has ended.

    The system gives the leader's id to another process only once the session has no process left. So if a
    process has this id, the session is another one.
    """
    import psutil

    return [] if psutil.pid_exists(leader) else _list_session(leader)


def _list_session(leader: int) -> list[int]:
    """The ids of the session's processes, without those that ended and were not waited for."""
    import psutil

    pids = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                pids.append(pid)
    return pids


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _start(pid: int) -> str | None:
    if _PROC.exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
        return None if fields[0] == "Z" else fields[19]
    ps = subprocess.run(["ps", "-p", str(pid), "-o", "lstart="], capture_output=True, text=True, check=False)
    return ps.stdout.strip().replace(" ", "_") or None
