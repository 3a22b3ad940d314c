"""A channel whose address is in an environment variable: `env:NAME`."""

from __future__ import annotations

import os
from collections.abc import Callable

from headrace.alerts.channels.port import Channel
from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable

__all__ = ["EnvironmentChannel"]


class EnvironmentChannel:
    """Delivers to the address that the variable holds at the time of each delivery.

    Args:
        address: `env:NAME`.
        settings: the project's settings.
        where: the place of the address, for errors.
        open_channel: opens the channel of an address.
    """

    def __init__(
        self,
        address: str,
        settings: Settings,
        where: str,
        open_channel: Callable[[str, Settings, str], Channel],
    ) -> None:
        self.name = address
        self.id = short_digest(address)
        self._variable = address.removeprefix("env:")
        self._settings = settings
        self._where = where
        self._open = open_channel

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert (Channel.deliver)."""
        address = os.environ.get(self._variable)
        if not address:
            raise Unavailable(
                f"environment variable {self._variable} is not set",
                where=self._where,
                remedy="Set it, and start again.",
            )
        self._open(address, self._settings, f"environment: {self._variable}").deliver(alert)
