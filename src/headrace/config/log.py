"""Settings of the log."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from headrace.kernel.addresses import sqlite_address
from headrace.kernel.topics import stored_name

__all__ = ["LogSettings"]


class LogSettings(Struct, frozen=True):
    """Where topics are stored.

    Attributes:
        state: the state folder.
        project: the project's name.
        address: setting `log`: `sqlite` (one file per topic in the state folder) or `kafka://host:port,...`.
    """

    state: Path
    project: str
    address: str = field(default="sqlite", name="log")

    @property
    def url(self) -> str:
        """The full address: `sqlite:///folder` or `kafka://.../PROJECT`."""
        if self.address == "sqlite":
            return sqlite_address(self.state / "log")
        return f"{self.address}/{self.project}" if self.is_shared else self.address

    @property
    def is_shared(self) -> bool:
        """Whether the log is a server, on which other projects may have their topics too."""
        return self.address.startswith("kafka://")

    def stored_name(self, topic: str) -> str:
        """The name under which the log stores a topic (kernel.topics)."""
        return stored_name(topic, self.project) if self.is_shared else topic
