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
        replicas: the number of processes that compute predictions; with `max_replicas` the least number.
        max_replicas: the most replicas that Ray Serve starts while requests need them; None: it starts
            `replicas`.
        target_ongoing_requests: Ray Serve has one replica for each so many requests in progress.
        upscale_delay, downscale_delay: seconds for which more or fewer replicas must be needed before Ray Serve
            starts or ends some.
        max_requests: how many requests for predictions or features a replica may have in progress; one more is
            answered with 429.
        max_batch_size: how many single requests of one turn of the event loop may share a lookup, a call of the
            model and a write; 1: none.
        max_spool: how many MiB of predictions may wait for the log; then no more are made, until it takes them.
        max_batches: how many large requests a replica may have in progress; one more is answered with 429.
    """

    state: Path
    chosen_deployment: Literal["processes", "ray_serve"] | None = field(default=None, name="serving")
    replicas: Annotated[int, Meta(ge=1)] = 1
    max_replicas: Annotated[int, Meta(ge=1)] | None = None
    target_ongoing_requests: Annotated[float, Meta(gt=0)] = 2.0
    upscale_delay: Annotated[float, Meta(ge=0)] = 30.0
    downscale_delay: Annotated[float, Meta(ge=4)] = 600.0
    max_requests: Annotated[int, Meta(ge=1)] = 1_000
    max_batch_size: Annotated[int, Meta(ge=1)] = 64
    max_spool: Annotated[int, Meta(ge=1)] = 1_024
    max_batches: Annotated[int, Meta(ge=1)] = 16

    @property
    def spool_limit(self) -> int:
        """`max_spool` in bytes."""
        return self.max_spool << 20
