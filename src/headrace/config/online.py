"""Settings of the online store."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from headrace.kernel.addresses import sqlite_address

__all__ = ["OnlineSettings"]


class OnlineSettings(Struct, frozen=True):
    """Where current feature values are stored.

    Attributes:
        state: the state folder.
        address: setting `online`: `sqlite` (a file in the state folder), `sqlite:///path/to/file.db`,
            `postgresql://host:port/database` or `redis://host:port/0`, without a password.
    """

    state: Path
    address: str = field(default="sqlite", name="online")

    @property
    def url(self) -> str:
        """The full address: `sqlite:///file`, `postgresql://...` or `redis://...`."""
        return sqlite_address(self.state / "online.db") if self.address == "sqlite" else self.address

    @property
    def is_local(self) -> bool:
        """Whether a lookup takes microseconds, because it does not leave its process."""
        return self.url.startswith("sqlite://")
