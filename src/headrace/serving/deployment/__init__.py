"""Deployments: where the replicas of the predict endpoint run. One module each, all with the same `start`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.config.settings import Settings

__all__ = ["Deployment", "start"]


class Deployment(Protocol):
    """A predict endpoint that runs until it is stopped. Meanwhile its predictions are shipped to the log.

    Attributes:
        url: its address.
    """

    url: str

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id of the replicas that this process supervises."""
        ...

    def supervise(self, report: Callable[[str], None]) -> None:
        """Restarts what has died or hangs, and continues a rolling restart. It is called a few times a second.

        Args:
            report: called with a sentence about each event.
        """
        ...

    def roll(self, report: Callable[[str], None]) -> None:
        """Begins a rolling restart: replaces one replica after the other without losing a request. If a new
        replica does not start, that is reported and the old ones continue."""
        ...

    def stop(self) -> None:
        """Ends the replicas and ships the predictions that are left."""
        ...


def start(settings: Settings, models: Sequence[str] = (), *, port: int) -> Deployment:
    """Starts the endpoint by the profile's setting `serving`, and returns when it answers.

    Args:
        settings: of which project; its profile has the host and the number of replicas.
        models: the models to predict; empty: every model that is released, now or later.
        port: where to listen.

    Raises:
        ProjectError: the host is not loopback and the token is not set.
        Unavailable: the port is in use, or the log, Ray or a replica does not start.
    """
    module = importlib.import_module(f"{__name__}.{settings.deployment}")
    deployment: Deployment = module.start(settings, models, port=port)
    return deployment
