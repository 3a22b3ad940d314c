"""Slots: a numbered lock file for each process in a folder, so that others know how many there are.

The kernel releases a lock when its process ends, however it ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from headrace.kernel.lock import find_holder, try_lock

__all__ = ["REPLICAS", "count_slots", "take_slot"]

REPLICAS = "replicas"
"""The name of the folder in which each replica of the predict endpoint holds a slot."""


def take_slot(folder: Path) -> tuple[IO[str], int]:
    """The lock and the number of the first slot that no process holds. The folder must exist."""
    number = 1
    while (lock := try_lock(folder / f"{number}.lock")) is None:
        number += 1
    return lock, number


def count_slots(folder: Path) -> int:
    """How many slots of the folder are held."""
    return sum(find_holder(path) is not None for path in folder.glob("*.lock"))
