"""A webhook: POST of the alert as JSON."""

from __future__ import annotations

import msgspec

from headrace.alerts.channels.http import host_of, post
from headrace.alerts.channels.port import Channel
from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest

__all__ = ["EXAMPLE", "WebhookChannel", "open"]

EXAMPLE = "https://host/path"


def open(address: str, settings: Settings) -> Channel | None:  # noqa: A001
    """Opens the webhook at an address; None if it is not the address of a webhook."""
    host = host_of(address)
    return None if host is None else WebhookChannel(address, host, settings)


class WebhookChannel:
    """Posts `{"project", "profile", "alert"}`, signed if there is a secret (channels.http.post)."""

    def __init__(self, url: str, host: str, settings: Settings) -> None:
        self.id = short_digest(url)
        self.name = f"webhook {host}#{self.id[:6]}"
        self._url = url
        self._settings = settings

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert (Channel.deliver)."""
        body = {"project": self._settings.project, "profile": self._settings.profile_name, "alert": alert}
        post(self._url, msgspec.json.encode(body), alert.id, self.name)
