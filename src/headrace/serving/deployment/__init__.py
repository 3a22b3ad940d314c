"""Deployment: where the replicas of the predict endpoint run. One file a way, all with the same `start`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.config.settings import Settings

__all__ = ["Deployment", "start"]


class Deployment(Protocol):
    """A predict endpoint that runs until it is stopped. Its predictions are shipped to the log meanwhile.

    Attributes:
        url: its address.
    """

    url: str

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id of the replicas that this process looks after."""
        ...

    def look(self, report: Callable[[str], None]) -> None:
        """To be called a few times a second: starts again what has died or hangs, goes on with a roll, and
        reports it."""
        ...

    def roll(self, report: Callable[[str], None]) -> None:
        """Begins to put a new process in the place of each replica, one after the other, without a request
        lost. Where that fails it is reported, and what is at work goes on."""
        ...

    def stop(self) -> None:
        """Ends the replicas, and ships the predictions that they have left."""
        ...


def start(settings: Settings, models: Sequence[str] = (), *, port: int) -> Deployment:
    """Starts the endpoint as the profile's `serving` says, and returns when it answers.

    Args:
        settings: of which project; its profile says the host, and how many replicas.
        models: the models to answer for; empty: every model that is released, now or later.
        port: where to listen.

    Raises:
        ProjectError: the host is not loopback and there is no token.
        Unavailable: the port is in use, or the log, Ray or a replica does not come up.
    """
    module = importlib.import_module(f"{__name__}.{settings.deployment}")
    deployment: Deployment = module.start(settings, models, port=port)
    return deployment
