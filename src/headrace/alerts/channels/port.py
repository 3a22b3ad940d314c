"""What a channel for alerts is, and what all channels share."""

from __future__ import annotations

from typing import Protocol

from headrace.alerts.record import Alert
from headrace.config.settings import Settings

__all__ = ["Channel", "ChannelKind", "describe_error", "headline"]


class Channel(Protocol):
    """Delivers alerts to one address.

    An address may hold a secret in its path, so no error, log or status shows it: a channel is named by its
    kind, its host and some digits of the address's digest.

    Attributes:
        name: its name in errors, logs and status.
        id: what distinguishes it from every other channel; no secret.
    """

    name: str
    id: str

    def deliver(self, alert: Alert) -> None:
        """Delivers one change of an alert.

        Raises:
            Unavailable: the address cannot be reached now; it is tried again.
            Refused: the address will never accept this change.
        """
        ...


class ChannelKind(Protocol):
    """One module of this folder: a kind of channel.

    Attributes:
        EXAMPLE: an address of this kind, for remedies.
    """

    EXAMPLE: str

    def open(self, address: str, settings: Settings) -> Channel | None:
        """The channel at this address; None if the address is of another kind, or not valid."""
        ...


def headline(alert: Alert, settings: Settings) -> str:
    """One line: project and profile, severity, state unless raised, subject and reason."""
    state = "" if alert.state == "raised" else f" {alert.state}"
    origin = f"[{settings.project}/{settings.profile_name}]"
    return f"{origin} {alert.severity}{state}: {alert.subject} {alert.reason}"


def describe_error(error: object) -> str:
    """An error without its own text, which may quote the address."""
    return getattr(error, "strerror", None) or type(error).__name__
