"""Alert sources: watch a part of the system and report what is wrong with it.

Each source is one class in the package that it watches. `AlertWatch` runs sources. A source decides how serious
each finding is; topics, numbers and channels are not its concern.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from headrace.alerts.record import Alert, Severity

__all__ = ["AlertSource", "Finding"]


class Finding(Struct, frozen=True):
    """The current severity of one problem.

    Attributes:
        subject, reason: the thing that the problem concerns, and the problem (see Alert).
        severity: its severity; None: it is over.
        why: the problem in words, with figures.
        look: the command that shows more.
        facts: the figures, by name.
    """

    subject: str
    reason: str
    severity: Severity | None
    why: str
    look: str
    facts: dict[str, str | int | float | None]


class AlertSource(Protocol):
    """Watches something. One thread at a time uses it, in rounds: `observe`, `judge` once or twice, `settle`.

    Attributes:
        name: its name in every alert that it raises; it never changes.
    """

    name: str

    def observe(self, open: Sequence[Alert]) -> None:
        """Reads what happened since the last settled round.

        Args:
            open: the last change of each of this source's alerts that is not resolved; their subjects are
                observed too.

        Raises:
            HeadraceError: something cannot be reached; the next round starts with `observe` again.
        """
        ...

    def judge(self, open: Sequence[Alert]) -> list[Finding]:
        """Returns the severity of everything that was observed in this round.

        Args:
            open: as for `observe`: a source may keep a severity until the figures are clearly better.
        """
        ...

    def settle(self) -> None:
        """Ends the round once its changes are on the log; otherwise the next round observes the same again."""
        ...
