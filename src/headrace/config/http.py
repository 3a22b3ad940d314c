"""Settings of the HTTP servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["HttpSettings", "Port"]

Port = Annotated[int, Meta(ge=0, le=65535)]


class HttpSettings(Struct, frozen=True):
    """Where the HTTP servers listen.

    Attributes:
        state: the state folder.
        host: the address that all of them listen on.
        predict_port, collector_port, console_port: their ports; 0: any free port.
        token_files: files with bearer tokens, one a line; a path is relative to the project's folder.
        open_metrics: whether GET /metrics needs no token.
    """

    state: Path
    host: str = "127.0.0.1"
    predict_port: Port = 8100
    collector_port: Port = 8101
    console_port: Port = 8102
    token_files: tuple[str, ...] = ()
    open_metrics: bool = False
