"""PyIceberg's REST client with timeouts: without them it would wait for an answer forever."""

from __future__ import annotations

from typing import Any

from pyiceberg.catalog.rest import RestCatalog
from requests import Session
from requests.adapters import HTTPAdapter

__all__ = ["TimedRestCatalog"]

_CONNECT, _ANSWER = 5.0, 60.0  # seconds


class TimedRestCatalog(RestCatalog):
    """A RestCatalog whose requests time out. The outcome of a commit that times out is unknown."""

    def _create_session(self) -> Session:
        session = super()._create_session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _TimedAdapter())
        return session


class _TimedAdapter(HTTPAdapter):
    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        return super().send(request, *args, **{**kwargs, "timeout": (_CONNECT, _ANSWER)})
