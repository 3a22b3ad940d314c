"""Settings of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

__all__ = ["ServingSettings"]


class ServingSettings(Struct, frozen=True):
    """Where predictions are computed.

    Attributes:
        state: the state folder.
        chosen_deployment: setting `serving`: `processes` (children of `headrace up`), `ray_serve`, or None:
            the setting `ray` decides (`Settings.deployment`).
        replicas: the number of processes that compute predictions.
        max_batches: how many large requests a replica may have in progress; one more is answered with 429.
    """

    state: Path
    chosen_deployment: Literal["processes", "ray_serve"] | None = field(default=None, name="serving")
    replicas: Annotated[int, Meta(ge=1)] = 1
    max_batches: Annotated[int, Meta(ge=1)] = 32
