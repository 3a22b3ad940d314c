"""Settings of alerts."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

__all__ = ["AlertSettings"]


class AlertSettings(Struct, frozen=True):
    """Where alerts are delivered.

    Attributes:
        state: the state folder.
        channels: setting `alerts`: `https://host/path`, `slack+https://...`, `mailto:ops@example.com`, or
            `env:NAME` for an address that is a secret.
    """

    state: Path
    channels: tuple[str, ...] = field(default=(), name="alerts")
