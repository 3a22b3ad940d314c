"""Channels: deliver alerts. `channels(settings)` opens those that the profile names.

To add a kind of channel, add a module here with `EXAMPLE` and `open`, and list it in `_KINDS`.
"""

from __future__ import annotations

from headrace.alerts.channels import mail, slack, webhook
from headrace.alerts.channels.environment import EnvironmentChannel
from headrace.alerts.channels.port import Channel, ChannelKind
from headrace.config.settings import Settings
from headrace.kernel.errors import ProjectError

__all__ = ["Channel", "channels"]

_KINDS: tuple[ChannelKind, ...] = (webhook, slack, mail)


def channels(settings: Settings) -> list[Channel]:
    """Opens the channels that the profile names.

    Raises:
        ProjectError: an address is not valid; the error names its place and does not quote it.
    """
    opened: list[Channel] = []
    for place, address in enumerate(settings.alerts.channels):
        where = f"headrace.toml: profile.{settings.profile_name}.alerts[{place}]"
        if address.startswith("env:"):
            opened.append(EnvironmentChannel(address, settings, where, _open))
        else:
            opened.append(_open(address, settings, where))
    return opened


def _open(address: str, settings: Settings, where: str) -> Channel:
    for kind in _KINDS:
        channel = kind.open(address, settings)
        if channel is not None:
            return channel
    examples = ", ".join(kind.EXAMPLE for kind in _KINDS)
    raise ProjectError(
        "the address of an alert channel is not valid (it is not shown, because it may hold a secret)",
        where=where,
        remedy=f"Write {examples}, or env:NAME for one of these in an environment variable.",
    )
