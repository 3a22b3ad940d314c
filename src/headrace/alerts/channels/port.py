"""The port of an alert channel, and the text that all channels share."""

from __future__ import annotations

from typing import Protocol

from headrace.alerts.record import Alert
from headrace.config.settings import Settings

__all__ = ["Channel", "ChannelKind", "describe_error", "headline"]


class Channel(Protocol):
    """Delivers alerts to one address.

    An address may hold a secret in its path, so no error, log or status shows it: a channel's name consists of
    its kind, its host and some digits of the address's digest.

    Attributes:
        name: its name in errors, logs and status.
        id: its unique id; not a secret.
    """

    name: str
    id: str

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert.

        Raises:
            Unavailable: the address cannot be reached now; delivery is tried again.
            Refused: the address will never accept this change.
        """
        ...


class ChannelKind(Protocol):
    """A kind of channel: one module of this folder.

    Attributes:
        EXAMPLE: an address of this kind, for remedies.
    """

    EXAMPLE: str

    def open(self, address: str, settings: Settings) -> Channel | None:
        """Opens the channel at an address; None if the address is of another kind, or not valid."""
        ...


def headline(alert: Alert, settings: Settings) -> str:
    """An alert in one line: project and profile, severity, state unless raised, subject and reason."""
    state = "" if alert.state == "raised" else f" {alert.state}"
    origin = f"[{settings.project}/{settings.profile_name}]"
    return f"{origin} {alert.severity}{state}: {alert.subject} {alert.reason}"


def describe_error(error: object) -> str:
    """An error without its own text, which may quote the address."""
    return getattr(error, "strerror", None) or type(error).__name__
