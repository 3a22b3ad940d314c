"""Settings of the HTTP doors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["HttpSettings", "Port"]

Port = Annotated[int, Meta(ge=0, le=65535)]


class HttpSettings(Struct, frozen=True):
    """Where the HTTP doors listen.

    Attributes:
        state: the state folder.
        host: the address that all of them listen on.
        predict_port, collector_port, console_port: their ports; 0 takes a free one.
    """

    state: Path
    host: str = "127.0.0.1"
    predict_port: Port = 8100
    collector_port: Port = 8101
    console_port: Port = 8102
