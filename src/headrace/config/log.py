"""Settings of the log."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from headrace.kernel.addresses import sqlite_address

__all__ = ["LogSettings"]


class LogSettings(Struct, frozen=True):
    """Where topics are stored.

    Attributes:
        state: the state folder.
        address: setting `log`: `sqlite` (one file per topic in the state folder) or `kafka://host:port,...`.
    """

    state: Path
    address: str = field(default="sqlite", name="log")

    @property
    def url(self) -> str:
        """The full address: `sqlite:///folder` or `kafka://...`."""
        return sqlite_address(self.state / "log") if self.address == "sqlite" else self.address
