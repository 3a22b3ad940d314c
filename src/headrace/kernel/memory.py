"""How much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["memory_limit"]

# The limit of a container, by version of Linux's control groups; "max" is none.
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit() -> int:
    """The bytes that this process may use: the machine's memory, or the limit of its container, if lower."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER:
        text = path.read_text().strip() if path.is_file() else "max"
        limits += [int(text)] if text.isdigit() else []
    return min(limits)
