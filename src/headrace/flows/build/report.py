"""The reports of a build: one for each stage, and one at the end."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

__all__ = ["BuildReport", "Progress", "StageReport", "silent"]


class StageReport(Struct, frozen=True):
    """One stage that ran, or is to run.

    Attributes:
        stage: its name.
        what: what it did; in a dry run, why it would run.
        rows: how many rows its table has, if it makes one.
        seconds: wall time.
    """

    stage: str
    what: str
    rows: int | None = None
    seconds: float | None = None


class BuildReport(Struct, frozen=True):
    """What a build did.

    Attributes:
        stages: the stages that ran, or would run in a dry run, in order.
        seconds: wall time of the whole build.
        dry_run: whether nothing was run.
        is_empty: whether the project declares nothing that a build makes.
        nothing: whether there was nothing to do.
    """

    stages: tuple[StageReport, ...]
    seconds: float
    dry_run: bool = False
    is_empty: bool = False

    @property
    def nothing(self) -> bool:
        """Whether there was nothing to do."""
        return not self.stages


Progress = Callable[[StageReport], None]
"""Called for each stage when it begins (without seconds), as a table with partitions is made (without seconds,
`what` says how far it is), and when it is done."""


def silent(report: StageReport) -> None:
    """Ignores the report."""
