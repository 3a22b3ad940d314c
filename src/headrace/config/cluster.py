"""Settings of the Ray cluster."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

__all__ = ["ClusterSettings"]


class ClusterSettings(Struct, frozen=True):
    """The Ray cluster that runs work on several processes or machines.

    Attributes:
        state: the state folder.
        address: setting `ray`: `local` (started for the project) or the address of a cluster.
    """

    state: Path
    address: str = field(default="local", name="ray")

    @property
    def is_local(self) -> bool:
        """Whether Ray is started on this machine for the project."""
        return self.address == "local"
