"""Slack's incoming webhooks, and compatible webhooks: `slack+https://...`."""

from __future__ import annotations

import msgspec

from headrace.alerts.channels.http import host_of, post
from headrace.alerts.channels.port import Channel, headline
from headrace.alerts.record import Alert
from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest

__all__ = ["EXAMPLE", "SlackChannel", "open"]

EXAMPLE = "slack+https://hooks.slack.com/..."
_PREFIX = "slack+"
_SIGNS = {"raised": ":rotating_light:", "changed": ":warning:", "resolved": ":white_check_mark:"}


def open(address: str, settings: Settings) -> Channel | None:  # noqa: A001
    """Opens the Slack webhook at an address; None if it is not the address of a Slack webhook."""
    url = address.removeprefix(_PREFIX)
    host = host_of(url)
    return None if host is None or url == address else SlackChannel(address, url, host, settings)


class SlackChannel:
    """Posts `text` and `blocks`, signed if there is a secret (channels.http.post)."""

    def __init__(self, address: str, url: str, host: str, settings: Settings) -> None:
        self.id = short_digest(address)
        self.name = f"slack {host}#{self.id[:6]}"
        self._url = url
        self._settings = settings

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert (Channel.deliver)."""
        head = _escape(headline(alert, self._settings))
        text = f"{_SIGNS[alert.state]} *{head}*\n{_escape(alert.why)}\n`{_escape(alert.look)}`"
        section = {"type": "section", "text": {"type": "mrkdwn", "text": text}}
        post(self._url, msgspec.json.encode({"text": head, "blocks": [section]}), alert.id, self.name)


def _escape(text: str) -> str:
    """Escapes the three characters that Slack interprets, so that no text becomes a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
