"""Alert sources: what watches something and finds that it is wrong.

Each source is one class in the room of what it watches. `AlertWatch` runs sources; a source decides how
serious each finding is, and knows nothing of topics, numbers or channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from headrace.alerts.record import Alert, Severity

__all__ = ["AlertSource", "Finding"]


class Finding(Struct, frozen=True):
    """How serious one thing is now.

    Attributes:
        subject, reason: what it is about, and what is wrong with it (see Alert).
        severity: None where nothing is wrong any more.
        why: the same in words, with figures.
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
            open: the last change of each of this source's alerts that is not resolved: what they are about
                is observed too.

        Raises:
            HeadraceError: something is away; the next round begins here again.
        """
        ...

    def judge(self, open: Sequence[Alert]) -> list[Finding]:
        """The severity of everything that was observed in this round.

        Args:
            open: as for `observe`: a source may keep a severity until the figures are clearly better.
        """
        ...

    def settle(self) -> None:
        """Ends the round: all that it found is on the log. Without it, the next round observes the same."""
        ...
