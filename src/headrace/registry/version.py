"""The record of a registered version."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

__all__ = ["Version"]


class Version(Struct, frozen=True, kw_only=True):
    """A registered version of a model.

    Attributes:
        model, version: the model's name and the version's number.
        run_id: the MLflow run that it was made from.
        tags: MLflow's tags and Headrace's (`headrace.*`).
        metrics, params: those of the run.
        aliases: such as `champion` and `challenger`.
        created: when it was registered.
    """

    model: str
    version: int
    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]
    params: dict[str, str]
    aliases: tuple[str, ...]
    created: datetime
