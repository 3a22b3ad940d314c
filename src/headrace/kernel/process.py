"""Marks of processes: identify a process, so that a later process can find out whether it is still alive."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["is_alive", "mark_of", "memory_of"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def mark_of(pid: int | None = None) -> str:
    """The mark `pid boot start` of a process (default: this process); `""` if it does not run.

    The start time distinguishes a process from a later one with the same id.
    """
    pid = os.getpid() if pid is None else pid
    start = _start(pid)
    return "" if start is None else f"{pid} {_boot()} {start}"


def is_alive(mark: str) -> bool:
    """Whether the process with this mark still runs."""
    pid = mark.split(" ", 1)[0]
    return pid.isdigit() and mark_of(int(pid)) == mark


def memory_of(pid: int) -> int | None:
    """The bytes of memory of a process, shared memory divided among those that share it (Linux: Pss; elsewhere
    the resident size); None if it does not run."""
    if not _BOOT.exists():
        ps = subprocess.run(["ps", "-p", str(pid), "-o", "rss="], capture_output=True, text=True, check=False)
        return int(ps.stdout) * 1024 if ps.stdout.strip() else None
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else "-"


def _start(pid: int) -> str | None:
    if _BOOT.exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
        return None if fields[0] == "Z" else fields[19]
    ps = subprocess.run(["ps", "-p", str(pid), "-o", "lstart="], capture_output=True, text=True, check=False)
    return ps.stdout.strip().replace(" ", "_") or None
