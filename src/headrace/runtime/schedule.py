"""Schedule: the builds that `up` runs at an interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from headrace.config.settings import Settings
from headrace.kernel.children import Child
from headrace.kernel.private import user_umask
from headrace.runtime.child import start_child

__all__ = ["BuildSchedule"]

_GRACE = 10.0  # seconds that a build may take to end


class BuildSchedule:
    """Starts a build in a child process each time the interval has passed, never two at once.

    Args:
        settings: the settings of the project.
        every: the interval; None: never.
        report: called with a line about a build that failed.
    """

    def __init__(self, settings: Settings, every: timedelta | None, report: Callable[[str], None]) -> None:
        self._settings, self._report = settings, report
        self._interval = None if every is None else every.total_seconds()
        self._due = time.monotonic() + (self._interval or 0.0)
        self._build: Child | None = None

    def check(self) -> None:
        """Starts a build that is due, and reports a build that failed. Call it a few times a second."""
        if self._build is not None:
            code = self._build.process.poll()
            if code is None:
                return
            if code != 0:
                self._report(f"the build failed (exit {code}): {self._build.last_log_line}")
            self._end_build()
        if self._interval is not None and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            # A build writes files of the project itself, which other users may read.
            self._build = start_child("build", self._settings, umask=user_umask())

    def end(self) -> None:
        """Ends a running build. The next build continues where it stopped."""
        if self._build is not None:
            self._build.terminate()
            self._end_build()

    def _end_build(self) -> None:
        if self._build is not None:
            self._build.end(time.monotonic() + _GRACE)
            self._build = None
