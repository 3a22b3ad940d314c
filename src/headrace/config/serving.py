"""Settings of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

__all__ = ["ServingSettings"]


class ServingSettings(Struct, frozen=True):
    """Where predictions are answered.

    Attributes:
        state: the state folder.
        chosen_deployment: setting `serving`: `processes` (children of `headrace up`), `ray_serve`, or empty:
            as the setting `ray` says (`Settings.deployment`).
        replicas: how many processes answer predictions.
    """

    state: Path
    chosen_deployment: Literal["", "processes", "ray_serve"] = field(default="", name="serving")
    replicas: Annotated[int, Meta(ge=1)] = 1
