"""Replica: the endpoint inside a Ray Serve replica. Lookup and model are in this one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.config.settings import Settings
from headrace.http.asgi import App
from headrace.http.token import is_loopback

__all__ = ["Replica"]


class Replica:
    """What Ray Serve runs. `serve.ingress()` takes the application from it.

    Args:
        settings: of which project.
        names: the models to answer for; empty: every model that is released.
    """

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        if is_loopback(settings.profile.host):
            _keep_to_loopback()
        from headrace.serving.endpoint import Endpoint
        from headrace.serving.models import Models

        spool = settings.place("serving", "spool")
        self._endpoint = Endpoint(Models(settings, names), spool, settings.profile.host)

    def __serve_build_asgi_app__(self) -> App:
        return self._endpoint.app

    def __del__(self) -> None:
        endpoint = getattr(self, "_endpoint", None)
        if endpoint is not None:
            endpoint.close()


def _keep_to_loopback() -> None:
    """Ray Serve opens a gRPC port of a replica, for handles between deployments, on every address.

    There is no setting for it. No handle is used here; the port is opened after this on loopback.
    """
    from ray.serve._private import replica

    opened: Any = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: opened(
        server, address.replace("[::]", "127.0.0.1")
    )
