"""Deployments: where the replicas of the predict endpoint run. Each is a module with a function `start`."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.config.settings import Settings

__all__ = ["Deployment", "start"]


class Deployment(Protocol):
    """A predict endpoint that runs, and ships its predictions to the log, until it is stopped.

    Attributes:
        url: the address of the endpoint.
    """

    url: str

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id of the replicas that this process supervises."""
        ...

    def supervise(self, report: Callable[[str], None]) -> None:
        """Restarts processes that have died or hang, and continues a rolling restart. Call it a few times a
        second.

        Args:
            report: called with a sentence about each event.
        """
        ...

    def roll(self, report: Callable[[str], None]) -> None:
        """Begins a rolling restart: replaces one replica after the other without losing a request. If a new
        replica does not start, that is reported, and the old replicas continue."""
        ...

    def stop(self) -> None:
        """Ends the replicas and ships the predictions that are left."""
        ...


def start(
    settings: Settings, models: Sequence[str] = (), *, port: int, stop: threading.Event | None = None
) -> Deployment:
    """Starts the endpoint as the profile's setting `serving` says, and returns when it answers.

    Args:
        settings: the project's settings; the profile has the host and the number of replicas.
        models: the models to predict; empty for every model that is released, now or later.
        port: the port to listen on.
        stop: if it is set meanwhile, the deployment is returned before it answers, to be stopped.

    Raises:
        ProjectError: the host is not loopback and the token is not set.
        Unavailable: the port is in use, or the log, Ray or a replica does not start.
    """
    module = importlib.import_module(f"{__name__}.{settings.deployment}")
    deployment: Deployment = module.start(settings, models, port=port, stop=stop)
    return deployment
