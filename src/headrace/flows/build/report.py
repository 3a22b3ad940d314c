"""What a build tells: while it works, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BuildReport", "Progress", "StageReport", "silent"]


@dataclass(frozen=True)
class StageReport:
    """One stage that ran, or is to run.

    Attributes:
        stage: its name.
        what: what it did; of a dry run: why it would run.
        rows: how many rows its table has, where it makes one.
        seconds: wall time.
    """

    stage: str
    what: str
    rows: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        stages: those that ran (of a dry run: that would run), in order.
        seconds: wall time of all.
        dry_run: nothing was done.
        nothing: there was nothing to do.
    """

    stages: tuple[StageReport, ...]
    seconds: float
    dry_run: bool = False

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to do."""
        return not self.stages


Progress = Callable[[StageReport], None]
"""Is told each stage twice: when it begins (no seconds), and when it is done."""


def silent(report: StageReport) -> None:
    """Tells nobody."""
