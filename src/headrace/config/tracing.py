"""Settings of tracing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["TracingSettings"]


class TracingSettings(Struct, frozen=True):
    """Where traces of requests go.

    Attributes:
        state: the state folder.
        otlp: the address of an OpenTelemetry collector (OTLP over HTTP), such as `http://localhost:4318`;
            empty: there are no traces.
        trace_share: the share of the requests that are traced, of those whose client does not say.
    """

    state: Path
    otlp: str = ""
    trace_share: Annotated[float, Meta(ge=0, le=1)] = 0.01
