"""Uptime: how long this machine has run, which no step of the wall clock moves; and the steady clock.

A wall clock may be set ahead by a day and back again: by NTP, by hand, by a virtual machine that resumes.
Whatever is deleted at some age must not go by it alone, because it does not come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from headrace.kernel.time import now_micros

__all__ = ["SteadyClock", "boot_id", "steady_micros", "uptime_micros"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Linux also counts while the machine is suspended.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TOLERANCE = 1_000_000  # microseconds: a difference that is no step
_TRUSTED = 86_400_000_000  # microseconds after which a step ahead counts


@cache
def boot_id() -> str:
    """The id of this start of the machine; `-` where the system has none."""
    return _BOOT.read_text().strip() if _BOOT.exists() else "-"


def uptime_micros() -> int:
    """Microseconds since the machine started; the same for all its processes."""
    return time.clock_gettime_ns(_CLOCK) // 1_000


class SteadyClock:
    """The wall clock without its steps ahead: one counts only after it has lasted for a day.

    So it may be behind the wall clock for a day: what goes by it is kept longer. A step back counts at once.

    Args:
        wall: the wall clock, microseconds since 1970.
        uptime: microseconds that have passed since some instant, whatever happens to the wall clock.
        state: the `state` of an earlier clock since the machine started; None: the wall clock is right now.
    """

    def __init__(
        self,
        wall: Callable[[], int] = now_micros,
        uptime: Callable[[], int] = uptime_micros,
        state: tuple[int, int | None] | None = None,
    ) -> None:
        self._wall, self._uptime = wall, uptime
        # The instant at which the uptime was 0, by this clock; the uptime since which the wall clock is ahead.
        self._started, self._ahead_since = state or (wall() - uptime(), None)

    @property
    def state(self) -> tuple[int, int | None]:
        """What another process needs to continue this clock."""
        return self._started, self._ahead_since

    def now(self) -> int:
        """Microseconds since 1970."""
        uptime = self._uptime()
        started = self._wall() - uptime
        is_ahead = started > self._started + _TOLERANCE
        since = uptime if self._ahead_since is None else self._ahead_since
        if is_ahead and uptime - since < _TRUSTED:
            self._ahead_since = since
        else:
            self._started, self._ahead_since = started, None
        return uptime + self._started


_clock = SteadyClock()


def steady_micros() -> int:
    """Microseconds since 1970 by the steady clock of this process, which takes its first instant from the wall
    clock."""
    return _clock.now()
